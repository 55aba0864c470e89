"""Zero-shot scoring at published size, on CPU: images a second in batches, against one image at a
time encoded again and again.

    python tests/benchmarks/zero_shot.py [--threads 2] [--images 16] [--alone 1] [--text 6x384]

8 findings, 5 + 1 sentences each, random weights. The two slow ways: an image is encoded anew for
each of the 48 sentences, or for each finding and side (its 5 positive sentences, its negative one).
One JSON line a measurement, then one a ratio.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import medxvl
from data_prep.reports import prompts

medxvl.set_up()  # before anything that imports timm or transformers

from medxvl.config import presets
from medxvl.data import text
from medxvl.layers import vision_transformer
from medxvl.xvl import model as xvl
from medxvl.xvl.tasks import zero_shot


@torch.no_grad()
def alone(model, tokenizer, image: torch.Tensor, together: bool) -> np.ndarray:
    """Scores (F,) of one image (1, S, S); `together`: sentences of one finding and side share a
    pass, else each has its own.
    """
    preset, found = model.preset, []
    for finding, positives in prompts.PROMPTS.items():
        sides = []
        for sentences in (positives, (prompts.negative_prompt(finding),)):
            logits = []
            for group in [sentences] if together else [[s] for s in sentences]:
                tokens, _ = model.online.encode_image(vision_transformer.plain_view(image, preset))
                cleaned = [text.clean_report(s, preset.max_words) for s in group]
                ids, mask = text.encode(tokenizer, cleaned, preset.max_tokens)
                states, _ = model.online.encode_text(ids, mask)
                logits.append(
                    model.match_logits(states, mask, tokens.expand(len(ids), -1, -1))[:, 1]
                )
            sides.append(torch.sigmoid(torch.cat(logits).mean()))
        found.append(torch.stack(sides).softmax(0)[0])
    return torch.stack(found).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=16, help="images scored in batches")
    parser.add_argument("--alone", type=int, default=1, help="images scored one at a time")
    parser.add_argument(
        "--repeats", type=int, default=2, help="measurements of each, of which the shortest counts"
    )
    parser.add_argument(
        "--text", default="6x384", help="layers x width of the text encoder; published: 12x768"
    )
    parser.add_argument("--settings", default="", help="further settings")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    layers, width = map(int, given.text.split("x"))
    preset = presets.load(
        "paper",
        f"{presets.EARLY_XVL} itm_heads=1 text_layers={layers} text_width={width} "
        f"text_heads={width // 64} text_hidden={4 * width} "
        f"fusion_hidden={width * 8 // 3} queue_size=64 {given.settings}",
    )
    tokenizer = text.train_tokenizer(
        [s for positives in prompts.PROMPTS.values() for s in positives], 2000
    )
    model = xvl.XVL(preset, preset.vocabulary).eval()
    images = torch.randint(
        0, 256, (given.images, preset.store_size, preset.store_size), dtype=torch.uint8
    )

    def batched():
        return zero_shot.score([model], tokenizer, images, prompts.PROMPTS)["ITM"]

    ways = {
        "in batches": (given.images, batched),
        "one image at a time, encoded for each finding and side": (given.alone, lambda: each(True)),
        "one image at a time, encoded for each sentence": (given.alone, lambda: each(False)),
    }

    def each(together):
        return np.stack(
            [alone(model, tokenizer, image[None], together) for image in images[: given.alone]]
        )

    told = {
        "threads": given.threads,
        "text": given.text,
        "findings": 8,
        "sentences": 48,
        "torch": torch.__version__,
    }
    seconds, used, scores = dict.fromkeys(ways, float("inf")), dict.fromkeys(ways, float("inf")), {}
    for _ in range(given.repeats):  # by turns, so that a busy machine slows all of them
        for name, (count, work) in ways.items():
            start, busy = time.perf_counter(), time.process_time()
            scores[name] = work()
            seconds[name] = min(seconds[name], (time.perf_counter() - start) / count)
            used[name] = min(used[name], (time.process_time() - busy) / count)
    fast, *slow = ways
    for name, (count, _) in ways.items():
        print(
            json.dumps(
                {
                    "name": f"zero-shot, {name}",
                    "s_an_image": round(seconds[name], 4),
                    "cpu_s_an_image": round(used[name], 4),
                    "images": count,
                }
                | told
            )
        )
    for name in slow:
        differs = float(np.abs(scores[name] - scores[fast][: given.alone]).max())
        told = {
            "value": round(seconds[name] / seconds[fast], 1),
            "value_by_cpu_time": round(used[name] / used[fast], 1),
        }
        told["largest_difference_of_a_score"] = differs
        print(json.dumps({"name": f"zero-shot, times faster than {name}"} | told))


if __name__ == "__main__":
    main()
