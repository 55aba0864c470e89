"""Several masks and seeds in one call (settings `masks` and `seeds`): which runs of a notebook there are, and where each lies.

The run with the preset's own mask and seed lies in runs/<preset> itself; every other in a run folder of the same form below it,
runs/<preset>/variants/<variant>. Only the standard library is imported here (see medxvl.graph).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from medxvl import graph, paths, presets

ENVIRONMENT = "MEDXVL_VARIANT"  # the variant that a notebook's process runs, set by medxvl.notebook
FOLDER = "variants"
PATTERN = rf"({FOLDER}/[\w-]+/)?"  # what a variant puts before the names of its files, as a regular expression


@dataclass(frozen=True)
class Step:
    """A notebook with the preset's own mask and seed (variant "") or with others ("seq2seq-seed1", "seed1")."""

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
    return {"": root} | {path.name: path for path in sorted((root / FOLDER).glob("*")) if path.is_dir()}


def overrides(variant: str) -> str:
    """``"seq2seq-seed1"`` -> ``"medvill_mask=seq2seq seed=1"``."""
    *mask, seed = variant.split("-") if variant else [""]
    return " ".join([f"medvill_mask={m}" for m in mask] + ([f"seed={seed.removeprefix('seed')}"] if seed else []))


def of(name: str, preset) -> list[str]:
    """Variants of the notebook `name` that the preset's `masks` and `seeds` ask for; "" is among them if its own are."""
    varies = graph.notebook(name).varies
    masks = presets.masks(preset) if "medvill_mask" in varies else [preset.medvill_mask]
    seeds = presets.seeds(preset) if "seed" in varies else [preset.seed]
    return [_name(varies, mask, seed, preset) for mask in masks for seed in seeds]


def _name(varies: tuple[str, ...], mask: str, seed: int, preset) -> str:
    if (mask, seed) == (preset.medvill_mask, preset.seed):
        return ""
    return f"{mask}-seed{seed}" if "medvill_mask" in varies else f"seed{seed}"


def steps(names: list[str], preset) -> list[Step]:
    """Every run of the notebooks `names`, in order."""
    return [Step(name, variant) for name in names for variant in of(name, preset)]


def needs(step: Step, preset) -> list[Step]:
    """The runs that `step` reads: of the same mask and seed; all of them where it has no variants itself."""
    found = []
    for need in graph.needs(step.name, preset):
        if graph.notebook(step.name).varies:
            varies, own = graph.notebook(need).varies, settings(preset, step.variant)
            mask = own.medvill_mask if "medvill_mask" in varies else preset.medvill_mask
            seed = own.seed if "seed" in varies else preset.seed
            found.append(Step(need, _name(varies, mask, seed, preset)))
        else:
            found += steps([need], preset)
    return found


def settings(preset, variant: str):
    """`preset` with the mask and the seed of a variant."""
    return presets.changed(preset, overrides(variant))
