"""Time and memory of MedViLL's pre-training step at published size: one JSON line a measurement,
and a table.

    python tests/benchmarks/medvill_step.py [as_released ours] [--steps 5] [--batch 4] [--device
    cuda --precision bf16]

as_released: the release's work on the release's inputs: the whole ResNet-50 frozen, texts padded to
254 tokens, which the mask shows to the image, one draw of grid positions, words of mismatched pairs
learned. ours: the default preset `paper`, on the same images and words: layers 2-4 of ResNet-50
trained, texts padded to the longest of the batch. Each runs in a process of its own. Operations are
those of the step's matrix products and convolutions; the share is of a large matrix product's rate,
measured before, between and after the steps.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import medxvl

medxvl.set_up()  # before anything that imports timm or transformers

from medxvl.config import presets
from medxvl.medvill import corpus, masks
from medxvl.medvill import model as medvill
from medxvl.pipeline import operations

SHARED = Path(__file__).resolve().parents[3] / "shared" / "bench" / "inputs.py"
RELEASED = (
    "medvill_freeze=released medvill_padding=pretraining medvill_draw=batch "
    "medvill_mlm_mismatched=1"
)
SETTINGS = {"as_released": RELEASED, "ours": ""}


def load_inputs(seed: int, n: int, preset) -> tuple[dict[str, np.ndarray], int]:
    """Images (n, 3, 512, 512), masked ids and labels of the text part (n, 254), matched (n,); and a
    checksum.
    """
    if SHARED.is_file():
        spec = importlib.util.spec_from_file_location("inputs", SHARED)
        shared = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(shared)
        batch = shared.medvill_batch(seed, n)
        labels = batch["txt_labels"][:, preset.medvill_positions + 2 :]
        found = {
            "images": batch["image"],
            "ids": batch["input_ids"],
            "labels": labels,
            "matched": batch["is_aligned"],
        }
        return found, shared.crc(*batch.values())
    rng = np.random.default_rng(seed)
    words = np.arange(preset.medvill_text + 1) < rng.integers(60, 140, (n, 1))
    text = np.where(words, rng.integers(1000, preset.vocabulary, words.shape), 0)
    picked = words & (rng.random(words.shape) < 0.15)
    ids = np.where(picked, 103, text)
    ids[np.arange(n), words.sum(1)] = 102
    size = preset.medvill_image_size
    found = {
        "images": rng.standard_normal((n, 3, size, size), dtype=np.float32), "ids": ids,
        "labels": np.where(picked, text, -100), "matched": rng.integers(0, 2, n),
    }  # fmt: skip
    crc = 0
    for value in found.values():
        crc = zlib.crc32(value.tobytes(), crc)
    return found, crc


def make_batch(preset, seed: int, n: int) -> tuple[medvill.Batch, int]:
    found, crc = load_inputs(seed, n, preset)
    images, ids, labels, matched = (
        torch.from_numpy(found[k]) for k in ("images", "ids", "labels", "matched")
    )
    if preset.medvill_padding == "blocked":
        longest = int((ids != 0).sum(dim=1).max())
        ids, labels = ids[:, :longest], labels[:, :longest]
    once = preset.medvill_draw == "batch"
    grid = corpus.draw_grid(
        n, 256, preset.medvill_positions, once, torch.Generator().manual_seed(seed)
    )
    mask = masks.attention(
        preset.medvill_mask, grid.shape[1] + 2, ids != 0, padding=preset.medvill_padding
    )
    return medvill.Batch(images, corpus.join(ids, mask, grid, (101, 102)), labels, matched), crc


def measure(name: str, given) -> dict:
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    preset = presets.load("paper", SETTINGS[name])
    half = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[given.precision]
    autocast = torch.autocast(given.device, half) if half else nullcontext()
    batch, crc = make_batch(preset, given.seed, given.batch)
    batch = batch.to(given.device)
    model = medvill.MedViLL(preset, preset.vocabulary).to(given.device).train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=preset.medvill_rate, fused=True
    )

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = model(batch)["total"]
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    kind = half or torch.float32
    rates, times = [operations.matrix_rate(given.device, kind)], []
    for _ in range(given.steps):
        times.append(operations.timed(step, given.device))
        rates.append(operations.matrix_rate(given.device, kind))
    count, median, rate = (
        counter.get_total_flops(),
        statistics.median(times),
        statistics.median(rates),
    )
    line = {
        "name": f"medvill_step {name}",
        "inputs_crc": crc,
        "median_s": round(median, 3),
        "min_s": round(min(times), 3),
        "gflop": round(count / 1e9, 1),
        "gflop_per_s": round(count / median / 1e9, 1),
        "matrix_gflop_per_s": round(rate / 1e9, 1),
        "share_of_matrix_rate": round(count / median / rate, 3),
        "max_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "threads": given.threads,
        "batch": given.batch,
        "tokens": batch.joint.ids.shape[1],
        "device": given.device,
        "precision": given.precision,
        "torch": torch.__version__,
        "parameters_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
    }
    if given.device == "cuda":
        line["max_gpu_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", choices=[*SETTINGS, []], help="what to measure, default: both"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    given = parser.parse_args()
    if len(given.names) == 1:
        print(json.dumps(measure(given.names[0], given)), flush=True)
        return
    options = [
        f"--{k}={getattr(given, k)}"
        for k in ("threads", "steps", "batch", "seed", "device", "precision")
    ]
    shown = ("median_s", "gflop", "gflop_per_s", "share_of_matrix_rate", "max_rss_gb")
    rows = []
    for name in given.names or SETTINGS:  # a process each: memory never shrinks
        told = subprocess.run(
            [sys.executable, __file__, name, *options],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        print(told, end="", flush=True)
        line = json.loads(told)
        rows.append(f"{line['name']:26}" + "".join(f"{line[key]:>22}" for key in shown))
    print("\n".join([" " * 26 + "".join(f"{key:>22}" for key in shown), *rows]), file=sys.stderr)


if __name__ == "__main__":
    main()
