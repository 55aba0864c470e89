"""Several masks, ablations, shares of the data and seeds in one call: which runs of a notebook
there are, and where each lies.

The run with the preset's own settings lies in runs/<preset> itself; every other in a run folder of
the same form below it, runs/<preset>/variants/<variant>. Only the standard library is imported here
(see medxvl.config.notebooks).
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from medxvl.config import notebooks, paths, presets

ENVIRONMENT = (
    "MEDXVL_VARIANT"  # the variant that a notebook's process runs, set by medxvl.pipeline.steps
)
FOLDER = "variants"
# what a variant puts before the names of its files, as a regular expression
PATTERN = rf"({FOLDER}/[\w-]+/)?"


@dataclass(frozen=True)
class Step:
    """A notebook with the preset's own settings (variant "") or with others ("seq2seq-seed1",
    "whole-share25-seed0").
    """

    name: str
    variant: str = ""

    @property
    def label(self) -> str:
        return f"{self.name} {self.variant}".strip()

    @property
    def file(self) -> str:
        """The executed notebook, in the preset's run folder."""
        return f"{prefix(self.variant)}notebooks/{self.name}.ipynb"


def prefix(variant: str) -> str:
    return f"{FOLDER}/{variant}/" if variant else ""


def run_folder(preset: str) -> Path:
    """The run folder of this process: that of its variant, if it runs one."""
    return paths.RUNS / preset / prefix(os.environ.get(ENVIRONMENT, ""))


def folders(root: Path) -> dict[str, Path]:
    """Run folders in runs/<preset>, by variant; the preset's own comes first."""
    return {"": root} | {
        path.name: path for path in sorted((root / FOLDER).glob("*")) if path.is_dir()
    }


def overrides(variant: str) -> str:
    """``"seq2seq-seed1"`` -> ``"medvill_mask=seq2seq seed=1"``; "whole-share25-seed0" sets
    ablation, share and seed.
    """
    told = []
    for part in variant.split("-") if variant else []:
        numbered = re.fullmatch(r"(seed|share)(\d+)", part)
        if numbered:
            told.append(
                f"seed={numbered[2]}"
                if numbered[1] == "seed"
                else f"share={int(numbered[2]) / 100}"
            )
        else:
            told.append(f"{'ablation' if part in presets.ABLATIONS else 'medvill_mask'}={part}")
    return " ".join(told)


def of(name: str, preset) -> list[str]:
    """Variants of the notebook `name` that the preset asks for (masks, ablations, shares, seeds);
    "" is its own run.
    """
    varies = notebooks.notebook(name).varies
    masks = presets.masks(preset) if "medvill_mask" in varies else [preset.medvill_mask]
    trained = (
        presets.ablations(preset) if "ablation" in varies else [(preset.ablation, preset.share)]
    )
    seeds = presets.seeds(preset) if "seed" in varies else [preset.seed]
    return [
        _name(varies, (mask, *kind, seed), preset)
        for mask in masks
        for kind in trained
        for seed in seeds
    ]


def _name(varies: tuple[str, ...], chosen: tuple, preset) -> str:
    """`chosen`: mask, ablation, share and seed."""
    if chosen == (preset.medvill_mask, preset.ablation, preset.share, preset.seed):
        return ""
    mask, ablation, share, seed = chosen
    parts = [mask] if "medvill_mask" in varies else []
    if "ablation" in varies:
        parts += [ablation] * bool(ablation) + [f"share{100 * share:.0f}"] * (share < 1)
    return "-".join([*parts, f"seed{seed}"])


def steps(names: list[str], preset) -> list[Step]:
    """Every run of the notebooks `names`, in order."""
    return [Step(name, variant) for name in names for variant in of(name, preset)]


def needs(step: Step, preset) -> list[Step]:
    """The runs that `step` reads: of the same settings; all of them where it has no variants
    itself.
    """
    book, found = notebooks.notebook(step.name), []
    own = settings(preset, step.variant)
    for need in book.needs:
        if book.compares:
            found += steps([need], presets.compared(preset))
        elif book.varies:
            varies = notebooks.notebook(need).varies
            mask = own.medvill_mask if "medvill_mask" in varies else preset.medvill_mask
            kind = (
                (own.ablation, own.share)
                if "ablation" in varies
                else (preset.ablation, preset.share)
            )
            seed = own.seed if "seed" in varies else preset.seed
            found.append(Step(need, _name(varies, (mask, *kind, seed), preset)))
        else:
            found += steps([need], preset)
    if book.start and getattr(own, book.start) == "own":
        found.append(Step(notebooks.START))
    return found


def needed(names: list[str], preset) -> list[Step]:
    """Every run of the notebooks `names` and all that these need, directly or not, in the
    notebooks' order.
    """
    todo = steps(names, preset)
    for step in todo:
        todo += [need for need in dict.fromkeys(needs(step, preset)) if need not in todo]
    return sorted(todo, key=lambda step: notebooks.NAMES.index(step.name))


def settings(preset, variant: str):
    """`preset` with the settings of a variant."""
    return presets.changed(preset, overrides(variant))
