"""Decoding of reports: batched with kept keys and values, against one report and one word at a time
without.

    python tests/benchmarks/decode_reports.py [--preset paper] [--reports 32] [--words 60]

Random weights; no stop word is allowed, so that every report has `--words` words. One JSON line a
measurement, seconds a report.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import medxvl

medxvl.set_up()  # before anything that imports timm or transformers

from medxvl.config import presets
from medxvl.layers import beam_search
from medxvl.medvill import corpus, masks, writer
from medxvl.medvill import model as medvill

SPECIAL, MASK, STOP = (2, 3), 4, 3


@torch.no_grad()
def uncached(model, features, words: int) -> torch.Tensor:
    """Greedy words of one report (1, P, F): the whole sequence passes through the model for each
    word.
    """
    found, grid = [], torch.arange(features.shape[1])[None]
    for _ in range(words):
        ids = torch.tensor([[*found, MASK]])
        mask = masks.attention(
            "seq2seq", features.shape[1] + 2, torch.ones_like(ids, dtype=torch.bool)
        )
        joint = corpus.join(ids, mask, grid, SPECIAL, every=True, positions="generation")
        logits = model.mlm_logits(model.encode(features, joint))[0, -1]
        logits[STOP] = -torch.inf
        found.append(int(logits.argmax()))
    return torch.tensor(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="demo", choices=presets.NAMES)
    parser.add_argument("--reports", type=int, default=128)
    parser.add_argument(
        "--alone", type=int, default=2, help="reports that are decoded without a cache"
    )
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    preset = presets.load(args.preset)
    model = medvill.MedViLL(preset, preset.vocabulary).eval()
    features = torch.randn(args.reports, model.trunk.grid**2, model.trunk.features)
    decoder = writer.Decoder(model, SPECIAL, MASK)
    rules = beam_search.Rules(stop=STOP, most=args.words, least=args.words)
    beam_search.greedy(decoder.step, decoder.start(features[:2]), 2, rules)  # warm-up

    start = time.perf_counter()
    found = beam_search.greedy(decoder.step, decoder.start(features), args.reports, rules).words
    together = (time.perf_counter() - start) / args.reports
    start = time.perf_counter()
    alone = [uncached(model, features[k : k + 1], args.words) for k in range(args.alone)]
    single = (time.perf_counter() - start) / args.alone
    same = all(a.equal(b) for a, b in zip(alone, found, strict=False))
    told = {"preset": args.preset, "words": args.words, "threads": args.threads, "same_words": same}
    print(
        json.dumps(
            {
                "name": "decoding, cached, batched",
                "s_a_report": round(together, 4),
                "reports": args.reports,
            }
            | told
        )
    )
    print(
        json.dumps(
            {
                "name": "decoding, uncached, one at a time",
                "s_a_report": round(single, 4),
                "reports": args.alone,
            }
            | told
        )
    )
    print(
        json.dumps({"name": "decoding, times faster", "value": round(single / together, 1)} | told)
    )


if __name__ == "__main__":
    main()
