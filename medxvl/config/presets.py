"""The settings of a run: a preset of the table (medxvl/config/settings.csv) with changes.

Only the standard library is imported here, so that `./run_all.sh --help` works before anything is
installed.
"""

import difflib
import shlex
from dataclasses import asdict, make_dataclass

from medxvl.config.settings import PRESETS as NAMES
from medxvl.config.settings import TABLE

# Settings that turn preset `paper` (the final code) into X-VL's early version:
# presets.load("paper", presets.EARLY_XVL)
EARLY_XVL = (
    "vision_width=384 vision_heads=6 itm_heads=2 queue_size=49152 epochs=15 weight_decay=0.02"
)

# What notebook 30 takes off X-VL, one at a time: settings, and what a row of results calls it.
ABLATIONS = {
    "whole": ("", "whole"),
    "no_momentum": ("momentum=0 alpha=0", "no momentum"),
    "no_sentences": ("local_weight=0", "no sentence-wise term"),
    "no_adjustment": ("same_report=2", "no similarity adjustment"),
    "no_fusion": ("fusion=0", "no fusion"),
    "no_start": ("vision_weights=", "no self-supervised start"),
}

# An ablation's training: setting, and the setting of notebook 30 that stands in for it
_TRAINED = {"epochs": "epochs", "contrast_epochs": "contrast_epochs", "vision_weights": "start"}
_MASKS = TABLE["medvill_mask"].choices
# Names that are short enough to be listed in a message
FEW = 8
_SHORT = {"bi": "bidirectional", "s2s": "seq2seq", "bi_s2s": "bi_seq2seq"}

Preset = make_dataclass(
    "Preset",
    [("name", str), *((setting.name, setting.kind) for setting in TABLE.values())],
    frozen=True,
)
Preset.__doc__ = "The settings of one run; `table()` explains them."


def load(name: str, overrides: str = "") -> "Preset":
    """Settings of preset `name`, with `overrides` such as ``"seed=1 epochs=3"`` applied.

    Raises ValueError, naming what is close, for an unknown preset or setting and for a value that
    the setting cannot have.
    """
    if name not in NAMES:
        raise ValueError(f"unknown preset {name!r}{hint(name, NAMES)}")
    values = {setting.name: setting.values[name] for setting in TABLE.values()}
    return changed(Preset(name=name, **values), overrides)


def changed(preset: "Preset", overrides: str) -> "Preset":
    """`preset` with `overrides` applied; raises as `load` does."""
    values = asdict(preset)
    given = parse_overrides(overrides)
    if ablation := given.get("ablation"):  # its settings win: what is off is off
        if ablation not in ABLATIONS:
            raise ValueError(f"setting ablation={ablation}{hint(ablation, ABLATIONS)}")
        trained = {
            key: str(given.get(f"ablation_{name}", values[f"ablation_{name}"]))
            for key, name in _TRAINED.items()
        }
        given |= trained | parse_overrides(ABLATIONS[ablation][0])
    values |= {name: TABLE[name].value(text) for name, text in given.items()}
    found = Preset(**values)
    masks(found), seeds(found), ablations(found)
    return found


def hint(word: str, known) -> str:
    """What the mistyped `word` may stand for, for the end of a message: a short list of `known`
    whole, of a long one the nearest names.
    """
    known = list(known)
    if len(known) <= FEW:
        return f": expected one of {', '.join(known)}"
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    near += [name for name in known if len(word) > 2 and word in name and name not in near]
    *others, last = near[:3] or [""]
    first = f"{', '.join(others)} or " if others else ""
    return f" (did you mean {first}{last}?)" if last else ""


def masks(preset) -> list[str]:
    """The masks of MedViLL to run: those of `masks`, without one `medvill_mask`. ValueError for an
    unknown one.
    """
    given = _MASKS if preset.masks == "all" else [_SHORT.get(m, m) for m in _listed(preset.masks)]
    if unknown := [mask for mask in given if mask not in _MASKS]:
        raise ValueError(
            f"setting masks={preset.masks!r}: {unknown[0]!r} is no mask; expected all, or "
            f"some of {', '.join(_MASKS)}"
        )
    return list(dict.fromkeys(given)) or [preset.medvill_mask]


def ablations(preset) -> list[tuple[str, float]]:
    """(ablation, share) of the trainings to run: those of `ablations` from all studies, the whole
    model from each of `shares`.

    Without both `ablation` and `share` alone. ValueError for an unknown name, and for what is no
    whole percentage.
    """
    names = list(ABLATIONS) if preset.ablations == "all" else _listed(preset.ablations)
    if unknown := [name for name in names if name not in ABLATIONS]:
        raise ValueError(
            f"setting ablations={preset.ablations!r}: {unknown[0]!r} is none; expected all, "
            f"or some of {', '.join(ABLATIONS)}"
        )
    shares = []
    for text in _listed(preset.shares):
        try:
            share = round(float(text), 6)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1 or abs(100 * share - round(100 * share)) > 1e-4:
            raise ValueError(
                f"setting shares={preset.shares!r}: expected whole percentages above 0, such "
                "as 0.1,0.25,1"
            )
        shares.append(("whole", share))
    return list(dict.fromkeys([(name, 1.0) for name in names] + shares)) or [
        (preset.ablation, preset.share)
    ]


def compared(preset) -> "Preset":
    """`preset` with the trainings that notebook 30 compares: those asked for, else every ablation
    and four shares, two seeds.
    """
    asked = bool(preset.ablations or preset.shares)
    wanted = "" if asked else "ablations=all shares=0.1,0.25,0.5 "
    return changed(
        preset, wanted + ("" if preset.seeds else f"seeds={preset.seed},{preset.seed + 1}")
    )


def ablation_label(preset) -> str:
    """What rows of results call an ablation or a share of the data: "no fusion", "whole, 25 % of
    the data"; else "".
    """
    share = f"{100 * preset.share:g} % of the data" if preset.share < 1 else ""
    return ", ".join(
        filter(None, [ABLATIONS[preset.ablation][1] if preset.ablation else "", share])
    )


def seeds(preset) -> list[int]:
    """The seeds to run: those of `seeds`, without one `seed`. ValueError for what is no whole
    number.
    """
    given = _listed(preset.seeds)
    if not all(text.isdecimal() for text in given):
        raise ValueError(
            f"setting seeds={preset.seeds!r}: expected whole numbers separated by commas, "
            "such as 0,1,2"
        )
    return list(dict.fromkeys(TABLE["seed"].value(text) for text in given)) or [preset.seed]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_overrides(overrides: str) -> dict[str, str]:
    """``"seed=1 epochs=3"`` -> ``{"seed": "1", "epochs": "3"}``; raises ValueError for an unknown
    name.
    """
    pairs = {}
    for item in shlex.split(overrides):
        key, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"setting {item!r}: expected name=value, for example seed=1")
        if key not in TABLE:
            raise ValueError(
                f"unknown setting {key!r}{hint(key, TABLE)}; ./run_all.sh settings lists them all"
            )
        pairs[key] = text
    return pairs


def group(preset, *groups: str) -> dict:
    """The settings of `preset` that belong to `groups`, as a plain dictionary."""
    return {
        setting.name: getattr(preset, setting.name)
        for setting in TABLE.values()
        if setting.group in groups
    }


def table(preset=None) -> list[dict]:
    """One row per setting: all presets, meaning and source; with `preset`, also the value in
    use.
    """
    rows = []
    for setting in TABLE.values():
        row = {"setting": setting.name, "group": setting.group, **setting.values}
        if preset is not None:
            row["in use"] = getattr(preset, setting.name)
        rows.append(row | {"meaning": setting.meaning, "source": setting.source})
    return rows
