"""Floating-point operations of a training step, counted from the settings, and how many a second
this machine does.

Two operations a multiplication, backward twice the forward; what a step cannot do without, so real
tokens alone and every distinct state once. The benchmarks measure a step against this count;
medxvl.pipeline.cost tells from it how long a training takes.
"""

import time
from functools import cache


def layer(width: int, hidden: int, tokens: int, lengths) -> float:
    """Forward operations of a self-attention layer with feed-forward over `tokens`, in rows of
    `lengths`.
    """
    pairs = sum(n * n for n in lengths)
    return 2 * tokens * (4 * width**2 + 2 * width * hidden) + 4 * width * pairs


def image(preset, size: int = 0) -> float:
    """Forward operations of X-VL's vision encoder on one image of `size` px (0: the preset's)."""
    patches = ((size or preset.image_size) // preset.patch_size) ** 2
    stem = 2 * patches * preset.patch_size**2 * preset.channels * preset.vision_width
    return stem + preset.vision_layers * layer(
        preset.vision_width, 4 * preset.vision_width, patches + 1, [patches + 1]
    )


def xvl_step(p, report: list[int], sentence: list[int], chosen: int) -> float:
    """One step of X-VL on reports and sentences of so many tokens; `chosen`: masked words in
    all.
    """
    n, patches = len(report), (p.image_size // p.patch_size) ** 2

    def summary(
        lengths,
    ):  # `[CLS]` alone of the last layer: keys and values of all tokens, the rest of one a row
        whole = (p.text_layers - 1) * layer(p.text_width, p.text_hidden, sum(lengths), lengths)
        last = 2 * sum(lengths) * 2 * p.text_width**2 + 4 * p.text_width * sum(lengths)
        return (
            whole
            + last
            + 2 * len(lengths) * (2 * p.text_width**2 + 2 * p.text_width * p.text_hidden)
        )

    texts = p.text_layers * layer(p.text_width, p.text_hidden, sum(report), report)
    d, keys = (
        p.text_width,
        2 * n * (patches + 1) * 2 * p.vision_width * p.text_width,
    )  # image keys and values, once a layer

    def fusion(lengths, wanted):
        whole = layer(d, p.fusion_hidden, sum(lengths), lengths)
        whole += 2 * sum(lengths) * 2 * d**2 + 4 * d * sum(lengths) * (patches + 1)
        last = 2 * sum(lengths) * 2 * d**2 + 4 * d * max(lengths) * wanted
        last += 2 * wanted * (4 * d**2 + 2 * d * p.fusion_hidden) + 4 * d * wanted * (patches + 1)
        return p.fusion_layers * keys + (p.fusion_layers - 1) * whole + last

    head = 2 * chosen * (d**2 + d * p.vocabulary)
    queue = 2 * n * (n + p.queue_size) * p.projection
    online = n * image(p) + 2 * texts + fusion(report * 4, 3 * n + chosen) + head + 4 * queue
    twin = (
        n * image(p)
        + summary(report)
        + summary(sentence)
        + texts
        + fusion(report, chosen)
        + head
        + 2 * queue
    )
    return 3 * online + twin


def ibot_image(p) -> float:
    """One image of an iBOT step: two large crops for student and teacher, the small ones for the
    student.
    """
    large, small = image(p), image(p, p.ibot_local_size)
    inner = p.vision_width * p.ibot_hidden + p.ibot_hidden**2 + p.ibot_hidden * p.ibot_bottleneck
    head = 2 * (inner + p.ibot_bottleneck * p.ibot_prototypes)
    masked = p.ibot_mask_share * p.ibot_masked * (p.image_size // p.patch_size) ** 2
    return 2 * (4 * large + (3 + 1) * (1 + masked) * head) + 3 * p.ibot_local_crops * (small + head)


def medvill(p, positions: int, words: int) -> float:
    """Forward operations of MedViLL's BERT on `positions` image tokens and `words` tokens of
    text.
    """
    tokens = positions + words + 3  # [CLS] and two [SEP]
    projection = 2 * positions * p.medvill_features * p.medvill_width
    return projection + p.medvill_layers * layer(
        p.medvill_width, p.medvill_hidden, tokens, [tokens]
    )


def words_head(p, words: float) -> float:
    """Forward operations of MedViLL's output layer on so many words."""
    return 2 * words * (p.medvill_width**2 + p.medvill_width * p.vocabulary)


@cache
def trunk(p) -> float:
    """Forward operations of MedViLL's image encoder on one image, counted by torch on tensors
    without content.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from medxvl.medvill import image_encoder

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        image_encoder.Trunk(p)(
            torch.empty(1, p.medvill_channels, p.medvill_image_size, p.medvill_image_size)
        )
    return counter.get_total_flops()


def matrix_rate(device: str = "cpu", kind=None, times: int = 3) -> float:
    """Operations a second of a large matrix product: of torch's type `kind` (None: float32) on
    `device`.
    """
    import torch

    size = 8192 if device == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=kind)
    timed(lambda: a @ a, device)
    return 2 * size**3 / min(timed(lambda: a @ a, device) for _ in range(times))


def timed(work, device: str = "cpu") -> float:
    """Seconds that `work()` takes on `device`."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
