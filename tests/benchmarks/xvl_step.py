"""Time and memory of Medical X-VL's pre-training step at published size: one JSON line a
measurement.

    python tests/benchmarks/xvl_step.py [--threads 2] [--steps 5] [--batch 8] [--queue 4096] [--text
    6x384] [--profile] python tests/benchmarks/xvl_step.py --device cuda --precision bf16 --batch 64
    --vision 768 --text 12x768 --queue 40960

The step: momentum update, forward, backward, clipping, AdamW. Operations are those that the step
cannot do without: real tokens alone, every distinct state once, two operations a multiplication,
backward twice the forward.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

import medxvl

medxvl.set_up()  # before anything that imports timm or transformers

from medxvl.config import presets
from medxvl.data import text
from medxvl.pipeline import operations
from medxvl.training.optimizer import clip_each
from medxvl.xvl import model as xvl

SHARED = Path(__file__).resolve().parents[3] / "shared" / "bench" / "inputs.py"
WORDS = (
    "small left right pleural effusion opacity in the lower lobe is seen no acute process "
    "heart size normal"
).split()


def load_inputs(seed: int, n: int):
    """Reports (n,), images (n, 3, 224, 224) in [0, 1), and a checksum of both: the shared ones
    where they are at hand.
    """
    if SHARED.is_file():
        spec = importlib.util.spec_from_file_location("inputs", SHARED)
        shared = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(shared)
        reports, images = shared.reports(seed, n), shared.images(seed, n)
        return reports, images, shared.crc(reports, images), shared.VOCAB
    rng = np.random.default_rng(seed)
    reports = [
        ". ".join(
            " ".join(rng.choice(WORDS, rng.integers(6, 12))) for _ in range(rng.integers(3, 7))
        )
        + "."
        for _ in range(n)
    ]
    images = rng.random((n, 1, 224, 224), dtype=np.float32).repeat(3, axis=1)
    return reports, images, zlib.crc32(images.tobytes(), zlib.crc32(repr(reports).encode())), None


def make_batch(preset, seed: int, n: int):
    """One step's input, and the checksum of what it was made from."""
    reports, images, crc, vocabulary = load_inputs(seed, n)
    if vocabulary:
        from transformers import BertTokenizerFast

        tokenizer = BertTokenizerFast(vocabulary)
    else:
        tokenizer = text.train_tokenizer(reports, 2000)
    parts = [text.sentences(r) for r in reports]
    ids, mask = text.encode(tokenizer, reports, 512)
    sentence_ids, sentence_mask = text.encode(tokenizer, [s for p in parts for s in p], 512)
    masked, labels = text.mask_tokens(
        ids, preset.vocabulary, preset.mask_share, torch.Generator().manual_seed(seed)
    )
    images = torch.from_numpy(images)
    of = torch.repeat_interleave(torch.arange(n), torch.tensor([len(p) for p in parts]))
    return xvl.Batch(
        images, images, ids, mask, masked, labels, sentence_ids, sentence_mask, of
    ), crc


def operations_of(preset, batch) -> float:
    """Operations of one step; each state that a loss needs counted once."""
    report, sentence = (mask.sum(1).tolist() for mask in (batch.mask, batch.sentence_mask))
    return operations.xvl_step(preset, report, sentence, int((batch.labels != -100).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--queue", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=30522)
    parser.add_argument(
        "--text", default="6x384", help="layers x width of the text encoder; published: 12x768"
    )
    parser.add_argument(
        "--vision",
        type=int,
        default=384,
        help="width of the vision encoder; published: 384 (early), 768 (final)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--settings", default="", help="further settings, such as packed=0")
    parser.add_argument("--profile", action="store_true", help="also print where the time goes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    layers, width = map(int, given.text.split("x"))
    preset = presets.load(
        "paper",
        f"{presets.EARLY_XVL} itm_heads=1 vision_width={given.vision} "
        f"vision_heads={given.vision // 64} "
        f"text_layers={layers} text_width={width} text_heads={width // 64} text_hidden={4 * width} "
        f"fusion_hidden={width * 8 // 3} queue_size={given.queue} "
        f"vocabulary={given.vocabulary} {given.settings}",
    )
    torch.manual_seed(given.seed)
    half = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[given.precision]
    autocast = torch.autocast(given.device, half) if half else nullcontext()
    model = xvl.XVL(preset, preset.vocabulary).to(given.device).train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True
    )
    batch, crc = make_batch(preset, given.seed, given.batch)
    count, tokens = operations_of(preset, batch), int(batch.mask.sum())
    batch = batch.to(given.device)
    generator = torch.Generator().manual_seed(given.seed)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = model(batch, 0.4, generator)["total"]
        loss.backward()
        clip_each(model.online.vision.parameters(), preset.clip)
        optimizer.step()

    for _ in range(3 if given.device == "cuda" else 1):
        step()
    kind = half or torch.float32
    rates, times = [operations.matrix_rate(given.device, kind, 5)], []
    for _ in range(given.steps):
        times.append(operations.timed(step, given.device))
        rates.append(operations.matrix_rate(given.device, kind, 2))
    median, rate = statistics.median(times), statistics.median(rates)
    line = {
        "name": "xvl_step",
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
        "tokens": tokens,
        "sentences": len(batch.sentence_of),
        "queue": given.queue,
        "vision": given.vision,
        "text": given.text,
        "device": given.device,
        "precision": given.precision,
        "vocabulary": given.vocabulary,
        "torch": torch.__version__,
        "parameters_m": round(
            sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6, 1
        ),
    }
    if given.device == "cuda":
        line["max_gpu_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    print(json.dumps(line), flush=True)
    if given.profile:
        with torch.profiler.profile() as profile:
            step()
        print(
            profile.key_averages().table(sort_by=f"self_{given.device}_time_total", row_limit=25),
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
