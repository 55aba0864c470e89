"""Zero-shot detection: how well does an image match sentences that describe a finding, against one that denies it.

Protocol of Medical X-VL, section 5: five positive sentences a finding and one negative. Each image and each sentence is
encoded once; the fusion encoder then runs over image-sentence pairs in large batches.
"""

import numpy as np
import pandas as pd
import torch

from medxvl import metrics, prompts, text, vision

PAIRS = 1024  # image-sentence pairs a call of the fusion encoder


@torch.no_grad()
def score(model, tokenizer, images: torch.Tensor, described: dict[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
    """Scores of every image for every finding, by both heads of one model.

    images (N, S, S) uint8; `described` {finding: positive sentences}. Returns {"ITM": (N, F), "ITA": (N, F)}.
    ITM, the published score: mean matching logit over the positive sentences and that of the negative one, each through a
    sigmoid, then the softmax of the two as released (so it lies within 0.269 and 0.731). ITA: mean cosine to the positive
    sentences minus the cosine to the negative one.
    """
    model.eval()
    device, preset = next(model.parameters()).device, model.preset
    encoded = [model.online.encode_image(vision.plain_view(part, preset).to(device)) for part in images.split(256)]
    tokens, f_image = torch.cat([t for t, _ in encoded]), torch.cat([f for _, f in encoded])

    sentences = [
        text.clean_report(s, preset.max_words) for f, ps in described.items() for s in (*ps, prompts.negative_prompt(f))
    ]
    ids, mask = (t.to(device) for t in text.encode(tokenizer, sentences, preset.max_tokens))
    states, f_text = model.online.encode_text(ids, mask)

    # A sentence at a time against many images: no padding, and the image tokens are used where they lie.
    logits = torch.empty(len(tokens), len(sentences), device=device)
    for j, length in enumerate(mask.sum(1).tolist()):
        for i in torch.arange(len(tokens), device=device).split(PAIRS):
            words, present = (t[j, :length].expand(len(i), *t[j, :length].shape) for t in (states, mask))
            logits[i, j] = model.match_logits(words, present, tokens[i])[:, 1]
    logits, cosines = logits.cpu(), (f_image @ f_text.t()).cpu()

    itm, ita, at = [], [], 0
    for positives in described.values():
        yes, no = slice(at, at + len(positives)), at + len(positives)
        at = no + 1
        sides = torch.sigmoid(torch.stack([logits[:, yes].mean(1), logits[:, no]], dim=1))
        itm.append(sides.softmax(dim=1)[:, 0])
        ita.append(cosines[:, yes].mean(1) - cosines[:, no])
    return {"ITM": torch.stack(itm, 1).numpy(), "ITA": torch.stack(ita, 1).numpy()}


def ensemble(models, tokenizer, images: torch.Tensor, described) -> dict[str, np.ndarray]:
    """Mean of `score` over several checkpoints, as published (best checkpoints, probabilities averaged)."""
    scores = [score(model, tokenizer, images, described) for model in models]
    return {head: np.mean([s[head] for s in scores], axis=0) for head in scores[0]}


def labels_of(dataset, rows, findings) -> np.ndarray:
    """(n, F) 1, 0 or NaN: not mentioned counts as negative, uncertain (-1) is left out of its finding."""
    table = dataset.index.iloc[rows].reindex(columns=list(findings)).astype(float).fillna(0).to_numpy()
    return np.where(table < 0, np.nan, table)


def shuffled(n: int, seed: int) -> np.ndarray:
    """(n,) whose picture each study gets instead of its own: the control that shows whether the picture matters."""
    order = np.random.default_rng([seed, 77]).permutation(n)
    partner = np.empty(n, dtype=int)
    partner[order] = np.roll(order, 1)
    return partner


def predictions(dataset, rows, findings, labels, scores, model: str) -> pd.DataFrame:
    """Long table: study_id, patient_id, split, finding, label, score, model; one row a study and finding."""
    about = dataset.index.iloc[rows][["study_id", "patient_id", "split"]]
    long = about.loc[about.index.repeat(len(findings))].reset_index(drop=True)
    return long.assign(
        finding=np.tile(list(findings), len(rows)), label=labels.ravel(), score=scores.ravel(), model=model
    )


def evaluate(labels, scores, patients, findings, *, task, dataset, model, control="", checkpoint="", valid=None, means=(),
             n_resamples=1000, seed=0, split="test") -> list[dict]:  # fmt: skip
    """Result rows of one model: AUROC, maximum F1, and F1 and MCC at the validation threshold, with 95 % intervals.

    labels, scores (n, F); `valid` (labels, scores) of the validation split gives the threshold; without it those two metrics
    are left out. `means` [(name, findings)] adds their means. Intervals resample patients, the same draws for every model.
    """
    wanted = {"auroc": metrics.auroc, "f1_max": metrics.f1_max}
    if valid is not None:
        threshold = metrics.f1_threshold(*valid)  # NaN where the validation split has no positive: no value there
        decided, judged = (scores >= np.nan_to_num(threshold)).astype(float), np.where(np.isnan(threshold), np.nan, labels)
        wanted |= {"f1_valid": metrics.f1, "mcc": metrics.mcc}
    rows = []
    for name, metric in wanted.items():
        truth, given = (judged, decided) if name in ("f1_valid", "mcc") else (labels, scores)
        value, samples = metric(truth, given), metrics.bootstrap(metric, truth, given, patients, n_resamples, seed)
        groups = [(f, [k]) for k, f in enumerate(findings)] + [
            (m, [findings.index(f) for f in members]) for m, members in means
        ]
        for subset, members in groups:
            low, high = metrics.interval(samples[:, members].mean(1))
            rows.append({"paper": "xvl", "task": task, "dataset": dataset, "split": split, "subset": subset, "model": model,
                         "metric": name, "value": float(value[members].mean()), "ci_low": float(low), "ci_high": float(high),
                         "n": int((~np.isnan(truth[:, members])).any(1).sum()), "control": control,
                         "checkpoint": checkpoint})  # fmt: skip
    return rows


def chance(labels, findings, *, task, dataset, means=(), split="test") -> list[dict]:
    """The AUROC of guessing, as rows beside the others."""
    return [{"paper": "xvl", "task": task, "dataset": dataset, "split": split, "subset": subset, "model": "chance", "metric": "auroc",
             "value": 0.5, "n": len(labels), "control": "chance"} for subset in (*findings, *(name for name, _ in means))]  # fmt: skip
