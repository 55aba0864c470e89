"""Pre-train Medical X-VL: one `fit`, with checkpoints, resume, a log line a step, and the best epochs kept."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from . import metrics, text, vision, weights
from .xvl import XVL, Batch

IN_MEMORY = 2**30  # bytes of pixels of a split that are kept in memory


def vocabulary(dataset, preset, folder: Path):
    """The tokenizer of the training reports, learned once and kept in `folder`/tokenizer.json."""
    parts = report_sentences(dataset, dataset.rows("train"), preset)
    tokenizer = text.train_tokenizer([text.join(p) for p in parts if p], preset.vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


class Corpus:
    """Cleaned reports and pixels of some rows of a prepared dataset; reports without a sentence are left out."""

    def __init__(self, dataset, split: str, tokenizer, preset):
        rows = dataset.rows(split)
        reports = report_sentences(dataset, rows, preset)
        kept = [k for k, parts in enumerate(reports) if parts]
        self.rows, self.sentences = rows[kept], [reports[k] for k in kept]
        self.dataset, self.tokenizer, self.preset = dataset, tokenizer, preset
        self._pixels = None

        if split == "train" and not kept:
            raise ValueError(f"{dataset.label}: expected training studies with a report, found none of {len(rows)}")

    def __len__(self) -> int:
        return len(self.rows)

    def reports(self, picked, rng: np.random.Generator | None = None) -> list[str]:
        """Reports of `picked`; with a generator their sentences are shuffled and, in a share of them, some left out."""
        parts = [self.sentences[k] for k in picked]
        if rng is None:
            return [text.join(p) for p in parts]
        whole = rng.random(len(parts)) >= self.preset.excerpt_share
        counts = np.where(whole, 999, rng.integers(1, 4, len(parts)))
        return [text.join([p[j] for j in rng.permutation(len(p))[:n]]) for p, n in zip(parts, counts, strict=True)]

    def images(self, picked) -> torch.Tensor:
        """(n, S, S) uint8; a small set is read into memory once, a large one batch by batch from disk."""
        if self._pixels is None and len(self) * self.dataset.card["size"] ** 2 <= IN_MEMORY:
            self._pixels = torch.from_numpy(self.dataset.images(self.rows))
        if self._pixels is not None:
            return self._pixels[torch.as_tensor(picked)]
        return torch.from_numpy(self.dataset.images(self.rows[picked]))

    def pairs(self, picked, rng: np.random.Generator, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Augmented images (n, C, s, s), token ids and mask (n, L) of the studies `picked` (n,)."""
        ids, mask = text.encode(self.tokenizer, self.reports(picked, rng), self.preset.max_tokens)
        return vision.augmented_view(self.images(picked), self.preset, generator), ids, mask

    def batch(self, picked, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        """Both views, shuffled report, masked report and single sentences of the studies `picked` (n,)."""
        preset, pixels = self.preset, self.images(picked)
        ids, mask = text.encode(self.tokenizer, self.reports(picked, rng), preset.max_tokens)
        masked_ids, labels = text.mask_tokens(ids, len(self.tokenizer), preset.mask_share, generator)
        parts = [self.sentences[k] for k in picked]
        sentence_ids, sentence_mask = text.encode(self.tokenizer, [s for p in parts for s in p], preset.max_tokens)
        return Batch(
            vision.augmented_view(pixels, preset, generator), vision.plain_view(pixels, preset), ids, mask, masked_ids, labels,
            sentence_ids, sentence_mask, torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(p) for p in parts])),
        )  # fmt: skip


def report_sentences(dataset, rows, preset) -> list[list[str]]:
    """Sentences of the cleaned impression of each row; of the findings where a report has no impression."""
    table = dataset.index.iloc[rows]
    chosen = table["impression"].where(table["impression"] != "", table["findings"])
    return [text.sentences(text.clean_report(t, preset.max_words)) for t in chosen]


@dataclass(frozen=True)
class Stage:
    """A stretch of training with its own batch size and learning-rate cycle."""

    name: str  # contrast: in-batch contrast alone; objective: the published objective
    first: int  # its first epoch
    epochs: int
    batch_size: int
    peak: float

    def learning_rate(self, step: int, a_epoch: int, preset) -> float:
        """Linear warm-up, then a cosine to the final rate; `step` counts from the stage's start."""
        if step < preset.warmup_steps:
            return self.peak * (step + 1) / preset.warmup_steps
        done = (step - preset.warmup_steps) / max(1, self.epochs * a_epoch - preset.warmup_steps)
        return preset.min_learning_rate + 0.5 * (self.peak - preset.min_learning_rate) * (1 + math.cos(math.pi * done))


def stages(preset) -> list[Stage]:
    both = [
        Stage("contrast", 0, preset.contrast_epochs, preset.contrast_batch, preset.contrast_rate),
        Stage("objective", preset.contrast_epochs, preset.epochs, preset.batch_size, preset.learning_rate),
    ]
    return [stage for stage in both if stage.epochs]


def parameter_groups(model: XVL, preset) -> list[dict]:
    """Weight decay on matrices alone: not on biases, norms, class token and position embeddings, nor on the temperature,
    whose rate is `preset.temperature_rate` times the others': Adam moves it by whole steps, whatever its size."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and n != "temperature"]
    spared = {n for n, p in named if p.ndim < 2 or "pos_embed" in n or "cls_token" in n or "position_embeddings" in n}
    return [
        {"params": [p for n, p in named if n not in spared], "weight_decay": preset.weight_decay, "scale": 1.0},
        {"params": [p for n, p in named if n in spared], "weight_decay": 0.0, "scale": 1.0},
        {"params": [model.temperature], "weight_decay": 0.0, "scale": preset.temperature_rate},
    ]


def clip_each(parameters, limit: float) -> None:
    """Cut the gradient norm of each parameter to `limit` (the release does so, for the vision encoder alone)."""
    grads = [p.grad for p in parameters if p.grad is not None]
    scales = [(limit / (n + 1e-6)).clamp(max=1.0) for n in torch._foreach_norm(grads)]
    torch._foreach_mul_(grads, scales)


def fit(preset, dataset, tokenizer, folder: Path, device, progress) -> pd.DataFrame:
    """Pre-train on the split `train` of `dataset`; returns the log, one row a step with every loss term.

    Writes to `folder`: `epoch-NN.safetensors` for the `preset.checkpoints` epochs that tell matched from mismatched
    validation pairs best (no label is used), `best.json` with their scores, `log.jsonl`, and `last.pt`, from which an
    interrupted run goes on. A finished run is read back, not repeated. `progress(total, desc)` makes the bar.
    Raises RuntimeError naming the studies of a batch whose loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = weights.fingerprint_of(preset, dataset)
    corpus, valid = (Corpus(dataset, split, tokenizer, preset) for split in ("train", "valid"))
    smallest = max(stage.batch_size for stage in stages(preset))
    if len(corpus) < smallest:
        raise ValueError(
            f"{dataset.label}: expected at least {smallest} training studies with a report, found {len(corpus)}"
        )
    torch.manual_seed(preset.seed)
    model = XVL(preset, len(tokenizer)).to(device)
    optimizer = torch.optim.AdamW(parameter_groups(model, preset), lr=preset.learning_rate)
    generator = torch.Generator().manual_seed(preset.seed)
    schedule = [(stage, epoch) for stage in stages(preset) for epoch in range(stage.first, stage.first + stage.epochs)]

    state = _load_last(folder, settings)
    done, log, best = 0, [], {}
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["global"])
        done, best = state["epoch"], state["best"]
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        log = [row for row in map(json.loads, lines) if row["epoch"] < done]
    else:
        for stale in folder.glob("epoch-*.safetensors"):  # of other settings
            stale.unlink()

    bar = progress(sum(len(corpus) // stage.batch_size for stage, _ in schedule), "pre-training")
    bar.update(len(log))
    for stage, epoch in schedule[done:]:
        if stage.name == "objective" and epoch == stage.first:
            model.reset_twin()
        rng = np.random.default_rng([preset.seed, epoch])
        for row in _train_epoch(model, corpus, optimizer, stage, epoch, rng, generator, device):
            log.append({"step": len(log)} | row)
            bar.update(1)
        score = float("nan")
        if stage.name == "objective":  # before it the matching head has seen nothing
            score = match_auroc(model, valid, device)
            best = _keep_best(model, folder, best, epoch, score, settings)
        _save_last(folder, model, optimizer, generator, epoch + 1, best, settings, log)
        bar.set_postfix_str(f"total {log[-1]['total']:.2f}, validation match AUROC {score:.3f}")
    bar.close()
    return pd.DataFrame(log)


def _train_epoch(model, corpus, optimizer, stage, epoch, rng, generator, device):
    """One pass over the corpus; yields each step's loss terms."""
    preset, size = corpus.preset, stage.batch_size
    a_epoch, order = len(corpus) // size, rng.permutation(len(corpus))
    model.train()
    for k in range(a_epoch):
        picked = order[k * size : (k + 1) * size]
        rate = stage.learning_rate((epoch - stage.first) * a_epoch + k, a_epoch, preset)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        if stage.name == "contrast":
            terms = model.contrast(*(t.to(device) for t in corpus.pairs(picked, rng, generator)))
        else:
            alpha = preset.alpha * min(1.0, epoch - stage.first + k / a_epoch)
            terms = model(corpus.batch(picked, rng, generator).to(device), alpha, generator)
        if not torch.isfinite(terms["total"]):
            studies = ", ".join(corpus.dataset.index["study_id"].iloc[corpus.rows[picked]])
            raise RuntimeError(f"the loss is {terms['total'].item()} in epoch {epoch}; studies of the batch: {studies}")
        optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        clip_each(model.online.vision.parameters(), preset.clip)
        optimizer.step()
        yield {"epoch": epoch, "stage": stage.name, "learning_rate": rate, "temperature": model.temperature.item()} | {
            name: value.item() for name, value in terms.items()
        }


@torch.no_grad()
def match_auroc(model: XVL, corpus: Corpus, device, offsets=(1, 2, 3, 5)) -> float:
    """AUROC of the matching head on validation pairs: each image with its own report and with four others'."""
    model.eval()
    n = len(corpus)
    if n < 2:
        return float("nan")
    tokens = torch.cat([model.online.encode_image(vision.plain_view(corpus.images(p), corpus.preset).to(device))[0]
                        for p in np.array_split(np.arange(n), max(1, n // 64))])  # fmt: skip
    ids, mask = (
        t.to(device) for t in text.encode(corpus.tokenizer, corpus.reports(range(n)), corpus.preset.max_tokens)
    )
    states, _ = model.online.encode_text(ids, mask)
    scores = []
    for shift in (0, *offsets):
        other = torch.roll(torch.arange(n, device=device), shift)
        scores.append((model.match_logits(states[other], mask[other], tokens)[:, 1]).cpu())
    return float(metrics.auroc(np.repeat([1, 0], [n, n * len(offsets)]), torch.cat(scores).numpy()))


def _keep_best(model, folder: Path, best: dict, epoch: int, score: float, settings: str) -> dict:
    """Save this epoch when it is among the best; delete the one it pushes out. {file name: score}, best first."""
    name = f"epoch-{epoch:03d}.safetensors"
    ranked = sorted({**best, name: score}.items(), key=lambda item: (-np.nan_to_num(item[1]), item[0]))
    kept = dict(ranked[: model.preset.checkpoints])
    if name in kept:
        weights.save(model, folder / name, kind="pre-trained", settings=settings, score=score)
    for gone in set(best) - set(kept):
        (folder / gone).unlink(missing_ok=True)
    _write(folder / "best.json", json.dumps(kept, indent=1))
    return kept


def _save_last(folder, model, optimizer, generator, epoch, best, settings, log) -> None:
    _write(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in log))
    partial = folder / "last.pt.partial"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state(),
                "global": torch.get_rng_state(), "epoch": epoch, "best": best, "settings": settings}, partial)  # fmt: skip
    os.replace(partial, folder / "last.pt")


def _load_last(folder: Path, settings: str) -> dict | None:
    """State to go on from; None when there is none for these settings, data and code, or a kept file of it is lost."""
    if not (folder / "last.pt").is_file():
        return None
    state = torch.load(folder / "last.pt", weights_only=True)
    whole = all((folder / name).is_file() for name in (*state["best"], "log.jsonl"))
    return state if whole and state["settings"] == settings else None


def _write(path: Path, content: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8")
    os.replace(partial, path)
