"""Zero-shot detection: how well does an image match sentences that describe a finding, against one
that denies it.

Protocol of Medical X-VL, section 5: five positive sentences a finding and one negative. Each image
and each sentence is encoded once, an image's keys and values are computed once a fusion layer, and
the pairs go through it in large batches.
"""

import numpy as np
import torch

from data_prep.reports import prompts
from medxvl.config import presets
from medxvl.data import text
from medxvl.evaluation import metrics
from medxvl.evaluation.rows import CHANCE, class_rows, result_row
from medxvl.layers import vision_transformer

TOKENS = 8192  # words of image-sentence pairs a call of the fusion encoder
IMAGES = 256  # images a call of the vision encoder, at 64 px


def heads(preset) -> tuple[str, ...]:
    """Scores that a model gives, the published one first; without fusion encoder ITA alone."""
    return ("ITM", "ITA") if preset.fusion else ("ITA",)


def named(head: str, preset) -> str:
    """What rows and figures call the model: "X-VL (ITM)", and what is different about it in an
    ablation.
    """
    told = presets.ablation_label(preset)
    return f"X-VL ({head})" + (f", {told}" if told else "")


@torch.no_grad()
def score(
    models, tokenizer, images: torch.Tensor, described: dict[str, tuple[str, ...]], denied=None
) -> dict[str, np.ndarray]:
    """Scores of every image for every finding, by head: means over the checkpoints `models`, as
    published.

    images (N, S, S) uint8; `described` {finding: positive sentences}; `denied` {finding: negative
    sentence}, by default `prompts.negative_prompt`. Returns {"ITM": (N, F), "ITA": (N, F)}, as
    `heads` says. ITM, the published score: mean matching logit over the positive sentences and that
    of the negative one, each through a sigmoid, then the softmax of the two as released (so it lies
    within 0.269 and 0.731). ITA: mean cosine to the positive sentences minus the cosine to the
    negative one.
    """
    preset, device = models[0].preset, next(models[0].parameters()).device
    denied = denied or {f: prompts.negative_prompt(f) for f in described}
    sentences = [
        text.clean_report(s, preset.max_words)
        for finding, positives in described.items()
        for s in (*positives, denied[finding])
    ]
    ids, mask = (t.to(device) for t in text.encode(tokenizer, sentences, preset.max_tokens))
    step = max(1, IMAGES * 64**2 // preset.image_size**2)
    found = {head: [] for head in heads(preset)}
    for model in models:
        model.eval()
        states, f_text = model.online.encode_text(ids, mask)
        logits, cosines = [], []
        for part in images.split(step):
            view = vision_transformer.plain_view(part, preset).to(device)
            tokens, f_image = model.online.encode_image(view)
            cosines.append((f_image @ f_text.t()).cpu())
            if preset.fusion:
                few = tokens.split(max(1, TOKENS // int(mask.sum())))
                matched = [model.match_every(states, mask, t)[..., 1] for t in few]
                logits.append(torch.cat(matched).cpu())
        cosines, logits = torch.cat(cosines), torch.cat(logits) if logits else None
        itm, ita, at = [], [], 0
        for positives in described.values():
            yes, no = slice(at, at + len(positives)), at + len(positives)
            at = no + 1
            ita.append(cosines[:, yes].mean(1) - cosines[:, no])
            if preset.fusion:
                sides = torch.sigmoid(torch.stack([logits[:, yes].mean(1), logits[:, no]], dim=1))
                itm.append(sides.softmax(dim=1)[:, 0])
        for head, given in (("ITM", itm), ("ITA", ita)):
            if head in found:
                found[head].append(torch.stack(given, 1).numpy())
    return {head: np.mean(given, axis=0) for head, given in found.items()}


def evaluate(
    labels,
    scores,
    patients,
    findings,
    *,
    valid=None,
    means=(),
    n_resamples=1000,
    seed=0,
    **about,
) -> list[dict]:
    """Result rows of one model: AUROC, maximum F1, and F1 and MCC at the validation threshold, with
    95 % intervals.

    labels, scores (n, F); `valid` (labels, scores) of the validation split gives the threshold;
    without it those two metrics are left out. `means` [(name, findings)] adds their means.
    Intervals resample patients, the same draws for every model. `about`: task, dataset, model and
    what else `medxvl.evaluation.rows` names.
    """
    wanted = {"auroc": metrics.auroc, "f1_max": metrics.f1_max}
    if valid is not None:
        threshold = metrics.f1_threshold(
            *valid
        )  # NaN where the validation split has no positive: no value there
        decided, judged = (
            (scores >= np.nan_to_num(threshold)).astype(float),
            np.where(np.isnan(threshold), np.nan, labels),
        )
        wanted |= {"f1_valid": metrics.f1, "mcc": metrics.mcc}
    groups = [(f, [k]) for k, f in enumerate(findings)]
    groups += [(m, [findings.index(f) for f in members]) for m, members in means]
    about, rows = {"paper": "xvl"} | about, []
    for name, metric in wanted.items():
        truth, given = (judged, decided) if name in ("f1_valid", "mcc") else (labels, scores)
        value = metric(truth, given)
        samples = metrics.bootstrap(metric, truth, given, patients, n_resamples, seed)
        rows += class_rows(about, name, value, samples, groups, ~np.isnan(truth))
    return rows


GUESSED = {"auroc": 0.5, "mcc": 0.0}


def chance(
    labels, findings, *, task, dataset, means=(), split="test", wanted=("auroc",)
) -> list[dict]:
    """What guessing gives, as rows beside the others."""
    about = CHANCE | {"paper": "xvl", "task": task, "dataset": dataset, "split": split}
    return [
        result_row(about, metric, GUESSED[metric], subset=subset, n=len(labels))
        for subset in (*findings, *(name for name, _ in means))
        for metric in wanted
    ]
