"""The settings of a run: one table, three presets side by side, a source for every published value.

Only the standard library is imported here, so that `./run_all.sh --help` works before anything is
installed.
"""

import difflib
import shlex
import sys
from dataclasses import asdict, fields, make_dataclass

from medxvl.config.settings import TABLE

NAMES = ("smoke", "demo", "paper")


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

_LEAST = {
    "epochs": 1,
    "accumulation": 1,
    "log_every": 1,
    "batch_size": 2,
    "contrast_batch": 2,
    "checkpoints": 1,
    "bootstrap": 20,
    "correct_words": 1,
    "queue_size": 1,
    "max_tokens": 4,
    "supervised_epochs": 1,
    "share": 0.01,
    "store_size": 8,
    "resize": 8,
    "image_size": 8,
    "patch_size": 2,
}
_MOST = {
    "max_reject_share": 1,
    "explain_threshold": 1,
    "share": 1,
    "errors_share": 1,
    "correct_share": 1,
    "correct_kept": 1,
}
# An ablation's training: setting, and the setting of notebook 30 that stands in for it
_TRAINED = {"epochs": "epochs", "contrast_epochs": "contrast_epochs", "vision_weights": "start"}
# ViewPosition in MIMIC-CXR's metadata; `views` names some of them, separated by commas
_VIEWS = (
    "AP",
    "PA",
    "LATERAL",
    "LL",
    "AP AXIAL",
    "AP LLD",
    "AP RLD",
    "PA LLD",
    "PA RLD",
    "LAO",
    "RAO",
    "LPO",
    "RPO",
    "SWIMMERS",
    "XTABLE LATERAL",
)
_MASKS = ("bidirectional", "seq2seq", "bi_seq2seq", "noncross", "bar")
_SHORT = {"bi": "bidirectional", "s2s": "seq2seq", "bi_s2s": "bi_seq2seq"}
_CHOICES = {
    "device": ("cpu", "cuda", "auto"),
    "precision": ("fp32", "bf16", "fp16"),
    "vision_stem": ("patch", "conv"),
    "show": ("open", "all", "none"),
    "medvill_mask": _MASKS,
    "task_positions": ("own", "released"),
    "generate_objective": ("masked", "every"),
    "medvill_padding": ("blocked", "pretraining", "finetuning"),
    "medvill_trunk": ("resnet50", "patch", "conv"),
    "medvill_freeze": ("none", "meant", "released", "aligned"),
    "medvill_draw": ("sample", "batch"),
    "packed": (0, 1),
    "fusion": (0, 1),
    "ablation": ("", *ABLATIONS),
    "itm_heads": (1, 2),
    "negatives": ("online", "momentum"),
    "soft_targets": ("vocabulary", "sequence"),
    "xvl_tune_frozen": (0, 1),
    "writer_copies": (0, 1),
    "xvl_vqa_chest": (0, 1),
    "vision_branch": ("teacher", "student"),
}

Preset = make_dataclass(
    "Preset", [("name", str)] + [(row[0], type(row[4])) for row in TABLE], frozen=True
)
Preset.__doc__ = (
    "The settings of one run; see `table()` for what each means and where the "
    "published value comes from."
)


def load(name: str, overrides: str = "") -> "Preset":
    """Settings of preset `name`, with `overrides` such as ``"seed=1 epochs=3"`` applied.

    Raises ValueError, listing what is valid, for an unknown preset or setting, or a value of the
    wrong type.
    """
    if name not in NAMES:
        raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(NAMES)}")
    values = {row[0]: row[2 + NAMES.index(name)] for row in TABLE}
    return changed(Preset(name=name, **values), overrides)


def changed(preset: "Preset", overrides: str) -> "Preset":
    """`preset` with `overrides` applied; raises as `load` does."""
    values = asdict(preset)
    given = parse_overrides(overrides)
    if given.get("ablation") in ABLATIONS:  # they win: what is off is off
        trained = {
            key: str(given.get(f"ablation_{name}", values[f"ablation_{name}"]))
            for key, name in _TRAINED.items()
        }
        given |= trained | parse_overrides(ABLATIONS[given["ablation"]][0])
    for key, text in given.items():
        values[key] = _cast(key, text, type(values[key]))
        least, most = _LEAST.get(key, 0), _MOST.get(key, sys.float_info.max)
        if (
            isinstance(values[key], int | float) and not least <= values[key] <= most
        ):  # "nan" is neither
            raise ValueError(
                f"setting {key}={text}: expected at least {least}"
                + f", at most {most}" * (key in _MOST)
            )
        if key in _CHOICES and values[key] not in _CHOICES[key]:
            raise ValueError(
                f"setting {key}={text!r}: expected one of {', '.join(map(str, _CHOICES[key]))}"
            )
        if key == "views" and not {view.strip() for view in text.split(",")} <= set(_VIEWS):
            raise ValueError(
                f"setting views={text!r}: expected one or more of {', '.join(_VIEWS)}, "
                "separated by commas"
            )
    found = Preset(**values)
    masks(found), seeds(found), ablations(found)
    return found


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
        share = round(_cast("shares", text, float), 6)
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
    return list(dict.fromkeys(int(text) for text in given)) or [preset.seed]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_overrides(overrides: str) -> dict[str, str]:
    """``"seed=1 epochs=3"`` -> ``{"seed": "1", "epochs": "3"}``; raises ValueError for an unknown
    name.
    """
    known = [row[0] for row in TABLE]
    pairs = {}
    for item in shlex.split(overrides):
        key, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"setting {item!r}: expected name=value, for example seed=1")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown setting {key!r}{hint}: expected one of {', '.join(known)}")
        pairs[key] = text
    return pairs


def _cast(key: str, text: str, kind: type):
    try:
        return kind(text)
    except ValueError:
        expected = {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"setting {key}={text!r}: expected {expected}") from None


def group(preset, *groups: str) -> dict:
    """The settings of `preset` that belong to `groups`, as a plain dictionary."""
    values = asdict(preset)
    return {row[0]: values[row[0]] for row in TABLE if row[1] in groups}


def table(preset=None) -> list[dict]:
    """One row a setting: the three presets side by side, meaning and source; with `preset`, also
    the value in use.
    """
    rows = []
    for name, part, smoke, demo, paper, meaning, source in TABLE:
        row = {"setting": name, "group": part, "smoke": smoke, "demo": demo, "paper": paper}
        if preset is not None:
            row["in use"] = getattr(preset, name)
        rows.append(row | {"meaning": meaning, "source": source})
    return rows


assert [f.name for f in fields(Preset)][1:] == [row[0] for row in TABLE]
