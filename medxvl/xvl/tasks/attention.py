"""Do the maps point at what the words say? Word maps and self-attention scored against boxes, with
controls.

Medical X-VL shows such maps without a number; the pointing game, IoU and contrast-to-noise ratio
are the field's usual ones. Shapes: n items, each a finding on an image with at least one box around
it; S px of the view; g * g patches.
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.reports import prompts
from medxvl.evaluation import controls, metrics
from medxvl.evaluation.rows import result_row
from medxvl.layers import vision_transformer
from medxvl.xvl import word_maps as explanation
from medxvl.xvl.tasks import boxes

CHUNK = 512  # maps held at full size
SAME = {
    "Effusion": "Pleural Effusion",
    "Right Lung": "lungs",
    "Left Lung": "lungs",
}  # box's name -> what is looked for
LUNGS = "lungs"  # boxes around lungs: the unseen disease is described, and should lie inside


def sentences(finding: str) -> tuple[str, ...]:
    """Sentences whose words are followed: the zero-shot prompts, and for any other finding that it
    is present.
    """
    described = prompts.PROMPTS | {LUNGS: prompts.UNSEEN_PROMPTS["COVID-19"]}
    return described.get(finding, (f"{finding.lower()} is present.",))


def items(
    dataset, preset, findings=None, split: str | None = "test", most: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """What is scored: a table of `row`, `image_id`, `patient_id`, `finding`, and the pixels in the
    boxes of each (n, S, S) bool.

    findings: which to keep, None: all; split: None for all; most: images at most, 0: all, the first
    ones. Of lung boxes only the images with the disease count. Boxes that the view cuts off are
    left out.
    """
    table = boxes.read(dataset)
    table["finding"] = table["finding"].replace(SAME)
    place = pd.Series(np.arange(len(dataset.index)), index=dataset.index["image_id"])
    table = table[table["image_id"].isin(place.index)].assign(
        row=lambda t: t["image_id"].map(place)
    )
    wanted = (
        np.ones(len(dataset.index), bool)
        if split is None
        else dataset.index["split"].to_numpy() == split
    )
    if "covid" in dataset.index:
        wanted &= pd.to_numeric(dataset.index["covid"], errors="coerce").to_numpy() == 1
    table = table[wanted[table["row"].to_numpy(int)]]
    if findings is not None:
        table = table[table["finding"].isin(findings)]
    sides = boxes.in_view(table, dataset.card["size"], preset)
    seen = (np.diff(sides[:, 0::2]) > 0)[:, 0] & (np.diff(sides[:, 1::2]) > 0)[:, 0]
    table, sides = table[seen], sides[seen]
    if most:
        kept = table["row"].isin(np.sort(table["row"].unique())[:most]).to_numpy()
        table, sides = table[kept], sides[kept]
    number = table.groupby(["row", "finding"]).ngroup().to_numpy()
    area = boxes.areas(sides, number, number.max(initial=-1) + 1, preset.image_size)
    found = table.assign(number=number).drop_duplicates("number").sort_values("number")
    found = found.assign(
        patient_id=dataset.index["patient_id"].to_numpy()[found["row"].to_numpy(int)]
    )
    shows = area.any(axis=(1, 2))  # a sliver may hold no pixel's centre
    return found.loc[shows, ["row", "image_id", "patient_id", "finding"]].reset_index(
        drop=True
    ), area[shows]


def word_maps(model, tokenizer, tokens: Tensor, image_of, findings, trace=None) -> Tensor:
    """Map of each item (n, g, g): mean over the words of the sentences that describe its finding.

    tokens: of `word_maps.encode`; image_of, findings (n,): the image and the finding of each item;
    trace: see `word_maps.explain`.
    """
    names, of = np.unique(np.asarray(findings, dtype=str), return_inverse=True)
    said = [sentences(name) for name in names]
    count = np.array([len(s) for s in said])
    first = np.cumsum(count) - count
    item = np.repeat(np.arange(len(of)), count[of])
    text_of = first[of][item] + np.arange(len(item)) - np.searchsorted(item, item)
    texts = [sentence for part in said for sentence in part]
    made = explanation.explain(
        model, tokenizer, tokens, texts, np.asarray(image_of)[item], text_of, trace
    )
    of_pair = made.maps.sum(dim=1) / made.covered.sum(dim=1)[:, None, None].clamp(min=1)
    total = of_pair.new_zeros(len(of), *of_pair.shape[1:]).index_add(
        0, torch.from_numpy(item).to(of_pair.device), of_pair
    )
    return (total / torch.from_numpy(count[of]).to(total)[:, None, None]).cpu()


# --- scores of maps against boxes -----------------------------------------------------------------
def measures(maps, area, threshold: float = 0.5) -> dict[str, np.ndarray]:
    """Scores of maps (n, S, S), none negative, against the pixels in boxes (n, S, S) bool; each
    (n,), NaN without a box.

    pointing: share of the map's highest pixels that lie in a box, so that a tie earns no more than
    a guess among them. iou: overlap of the boxes and the pixels of at least `threshold` of the
    map's maximum. cnr: mean inside minus mean outside, over the root of the summed variances;
    negative where the map avoids the box; NaN where the box is the whole image, or where both parts
    are even and differ. An empty map points nowhere and marks nothing: 0 in all three.
    """
    maps, area = (
        np.asarray(a, kind).reshape(len(a), a.shape[1] * a.shape[2])
        for a, kind in ((maps, float), (area, bool))
    )
    top = maps.max(axis=1, keepdims=True, initial=0)
    inside, highest, marked = (
        area.sum(1),
        (maps == top) & (top > 0),
        (maps >= threshold * top) & (top > 0),
    )
    outside = area.shape[1] - inside

    def mean(values, where, count):
        return np.divide(
            (values * where).sum(1), count, out=np.full(len(values), np.nan), where=count > 0
        )

    low, high = mean(maps, ~area, outside), mean(maps, area, inside)
    spread = mean(maps**2, area, inside) - high**2 + mean(maps**2, ~area, outside) - low**2
    spread, gap = np.sqrt(np.maximum(spread, 0)), high - low
    noise = spread > 1e-6 * top[:, 0]  # what rounding leaves of two even parts
    contrast = np.divide(gap, spread, out=np.where(np.isclose(high, low), 0.0, np.nan), where=noise)
    contrast[np.isnan(low) | np.isnan(high)] = np.nan
    found = {
        "pointing": (highest & area).sum(1) / np.maximum(highest.sum(1), 1),
        "iou": (marked & area).sum(1) / np.maximum((marked | area).sum(1), 1),
        "cnr": contrast,
    }
    return {name: np.where(inside > 0, value, np.nan) for name, value in found.items()}


def score(maps: Tensor, area: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """`measures` of maps (n, g, g) laid over the view, (n,) each."""
    size = area.shape[-1]
    parts = [
        measures(
            explanation.upsample(m, size).numpy(), area[k * CHUNK : (k + 1) * CHUNK], threshold
        )
        for k, m in enumerate(maps.split(CHUNK))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def chance(area: np.ndarray) -> dict[str, np.ndarray]:
    """What a map that is the same everywhere earns: the share of the image that the boxes take; no
    contrast.
    """
    share = area.mean(axis=(1, 2))
    return {"pointing": share, "iou": share, "cnr": np.zeros(len(area))}


def centre_maps(n: int, side: int) -> Tensor:
    """The guess that it lies in the middle: a bell around the image's centre, (n, side, side)."""
    place = (torch.arange(side) + 0.5) / side - 0.5
    bell = torch.exp(-(place**2) / (2 * 0.2**2))
    return (bell[:, None] * bell).expand(n, -1, -1)


def mean_maps(maps: Tensor, findings) -> Tensor:
    """Each item's map replaced by the mean of the *other* items of its finding, each scaled to a
    maximum of one.
    """
    _, of, count = np.unique(
        np.asarray(findings, dtype=str), return_inverse=True, return_counts=True
    )
    scaled, of = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12), torch.from_numpy(of)
    total = torch.zeros(len(count), *maps.shape[1:]).index_add(0, of, scaled)
    return (total[of] - scaled) / torch.from_numpy(count)[of].sub(1).clamp(min=1)[:, None, None]


def ceiling(area: np.ndarray, side: int, threshold: float) -> dict[str, np.ndarray]:
    """What a grid of side * side patches can reach: a map of how much of each patch lies in a box;
    for pointing, whether a box holds a place where such a map can be highest, the middle of a
    patch."""
    covered = F.adaptive_avg_pool2d(torch.from_numpy(area).float()[:, None], side)[:, 0]
    single = (
        explanation.upsample(torch.eye(side**2).view(-1, side, side), area.shape[-1])
        .flatten(1)
        .numpy()
    )
    middles = (single == single.max(axis=1, keepdims=True)).any(axis=0)
    return score(covered, area, threshold) | {
        "pointing": area.reshape(len(area), -1)[:, middles].any(axis=1).astype(float)
    }


def other_finding(findings, seed: int) -> np.ndarray:
    """For each item another finding than its own, at random among those there are: does it matter
    which words are followed?
    """
    names, of = np.unique(np.asarray(findings, dtype=str), return_inverse=True)
    if len(names) < 2:
        return names[of]
    return names[
        (of + np.random.default_rng([seed, 31]).integers(1, len(names), len(of))) % len(names)
    ]


# --- all ways to make a map, side by side ---------------------------------------------------------
WORDS, TRACED, HEADS = "X-VL (word maps)", "X-VL (word maps, traced)", "X-VL (self-attention)"


def compare(
    model, untrained, tokenizer, dataset, of, area, *, checkpoint, n_resamples=1000, split="test"
):
    """Rows of all kinds of maps and of the controls, on the items of `items`; and the maps, {model:
    (n, g, g)}.

    Word maps as published, and *traced* back through the vision encoder's last layer, as its tokens
    have mixed what the patches show. Self-attention of that layer, mean over the heads, knows of no
    word. Controls of the word maps: *shuffled images* (the words are followed on another item's
    image), *another finding's words* (on the right image), *mean map* (of the other items of the
    finding: where such findings usually lie), *image centre*, *untrained*, chance, and what the
    grid allows at best.
    """
    preset, findings = model.preset, of["finding"].to_numpy(str)
    rows, image_of = np.unique(of["row"].to_numpy(int), return_inverse=True)
    pixels = torch.from_numpy(dataset.images(rows))
    tokens, about = explanation.encode(model, pixels), {"model": WORDS, "checkpoint": checkpoint}
    attention = explanation.encode(model, pixels, vision_transformer.last_attention)
    trace = attention.mean(dim=1)
    maps, traced = (
        word_maps(model, tokenizer, tokens, image_of, findings, back) for back in (None, trace)
    )
    heads = explanation.head_maps(attention)[image_of].mean(dim=1).cpu()
    partner = controls.shuffled(len(rows), preset.seed)[image_of]
    other = other_finding(findings, preset.seed)
    ways = [
        (maps, about),
        (traced, about | {"model": TRACED}),
        (heads, about | {"model": HEADS}),
        (
            word_maps(model, tokenizer, tokens, partner, findings),
            about | {"control": "shuffled images"},
        ),
        (
            word_maps(model, tokenizer, tokens, partner, findings, trace),
            about | {"model": TRACED, "control": "shuffled images"},
        ),
        (
            word_maps(model, tokenizer, tokens, image_of, other),
            about | {"control": "another finding's words"},
        ),
        (
            word_maps(model, tokenizer, tokens, image_of, other, trace),
            about | {"model": TRACED, "control": "another finding's words"},
        ),
        (mean_maps(maps, findings), about | {"control": "mean map"}),
        (
            centre_maps(len(of), maps.shape[-1]),
            {"model": "image centre", "control": "image centre"},
        ),
        (
            word_maps(
                untrained, tokenizer, explanation.encode(untrained, pixels), image_of, findings
            ),
            {"model": WORDS, "control": "untrained", "checkpoint": "random"},
        ),
    ]
    scored = [(score(given, area, preset.explain_threshold), told) for given, told in ways]
    best = {"model": "best on this grid", "control": "best on this grid"}
    scored.append((ceiling(area, maps.shape[-1], preset.explain_threshold), best))
    scored.append((guess := chance(area), {"model": "chance", "control": "chance"}))
    common = {
        "dataset": dataset.label,
        "n_resamples": n_resamples,
        "seed": preset.seed,
        "split": split,
    }
    rows = [row for scores, told in scored for row in evaluate(scores, of, guess, **told, **common)]
    return rows, {WORDS: maps, TRACED: traced, HEADS: heads}


# --- rows -----------------------------------------------------------------------------------------
def by_finding(there, values, weights=None) -> np.ndarray:
    """Mean of each column over the items that count there (n, F), or (r, F) with `weights` (r, n);
    NaN without any.
    """
    total, count = (
        (values.sum(0), there.sum(0)) if weights is None else (weights @ values, weights @ there)
    )
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def evaluate(
    scores,
    of,
    guess,
    *,
    n_resamples=1000,
    seed=0,
    **about,
) -> list[dict]:
    """Rows of one kind of map: each measure per finding and as their mean, with 95 % intervals over
    patients.

    scores: of `score`; of: the table of `items`; guess: of `chance`, by which pointing_lift divides
    the pointing game; about: see `medxvl.evaluation.rows`.
    """
    about = {"paper": "xvl", "task": "explanation"} | about
    findings, column = np.unique(of["finding"].to_numpy(str), return_inverse=True)
    own, patients, rows, drawn = np.eye(len(findings))[column], of["patient_id"].to_numpy(), [], {}
    for name, value in (*scores.items(), ("chance", guess["pointing"])):
        finite = np.isfinite(value)
        table = own * finite[:, None], own * np.where(finite, value, 0)[:, None]
        drawn[name] = (
            by_finding(*table),
            metrics.bootstrap(by_finding, *table, patients, n_resamples, seed),
            table[0],
        )
    lift = [drawn["pointing"][k] / drawn["chance"][k] for k in (0, 1)]
    mean_lift = [drawn["pointing"][k].mean(-1) / drawn["chance"][k].mean(-1) for k in (0, 1)]
    for name in (*scores, "pointing_lift"):
        value, samples, counted = (
            (*lift, drawn["pointing"][2]) if name == "pointing_lift" else drawn[name]
        )
        overall = mean_lift if name == "pointing_lift" else (value.mean(), samples.mean(1))
        columns = [
            (f, value[k], samples[:, k], counted[:, k].sum()) for k, f in enumerate(findings)
        ]
        for subset, one, many, n in (
            *columns,
            (f"mean of {len(findings)}", *overall, counted.sum()),
        ):
            rows.append(result_row(about, name, one, many, subset=subset, n=n))
    return rows
