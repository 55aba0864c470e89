"""MedViLL's masks: as truth tables, and equal to the recorded matrices."""

import json

import pytest
import torch
from safetensors.torch import load_file

from medxvl.config import paths
from medxvl.medvill import masks

PARITY = paths.ROOT / "tests" / "parity"
RECORDED = load_file(PARITY / "medvill_masks.safetensors")


def table(name, **options):
    """The mask of `[CLS] v [SEP] | w w [SEP] pad` as rows of 0 and 1."""
    real = torch.tensor([[True, True, True, False]])
    return [
        "".join(str(int(x)) for x in row) for row in masks.attention(name, 3, real, **options)[0]
    ]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("bidirectional", ["1111110"] * 7),
        ("seq2seq", ["1110000"] * 3 + ["1111000", "1111100", "1111110", "1110000"]),
        ("bar", ["1111110"] * 3 + ["1111000", "1111100", "1111110", "1110000"]),
        ("noncross", ["1110000"] * 3 + ["0001110"] * 4),
    ],
)
def test_truth_tables(name, rows):
    assert table(name) == rows


def test_mixture_takes_each_samples_own_mask():
    real = torch.tensor([[True, True], [True, False], [True, True]])
    mixed = masks.attention("bi_seq2seq", 2, real, torch.tensor([True, False, False]))
    assert mixed[0].equal(masks.attention("seq2seq", 2, real)[0])
    assert mixed[1:].equal(masks.attention("bidirectional", 2, real)[1:])


@pytest.mark.numeric
def test_share_of_seq2seq():
    taken = masks.draw_seq2seq(200, 0.75, torch.Generator().manual_seed(0)).sum().item()
    recorded = json.loads((PARITY / "medvill_words.json").read_text())["share_of_seq2seq_of_200"][
        "s2s"
    ]
    assert abs(taken - 150) < 25 and abs(recorded - 150) < 25  # four standard deviations
    assert (
        masks.draw_seq2seq(5, 1.0, torch.Generator()).all()
        and not masks.draw_seq2seq(5, 0.0, torch.Generator()).any()
    )


@pytest.mark.parametrize("name", ["bidirectional", "seq2seq", "bar", "noncross"])
def test_equal_to_the_released_pre_training(name):
    real = torch.stack([RECORDED[f"{name}/{i}/input_ids"] for i in range(4)]) != 0
    wanted = torch.stack([RECORDED[f"{name}/{i}/attn_mask"] for i in range(4)]).bool()
    assert masks.attention(name, 7, real, padding="pretraining").equal(wanted)
    ours = masks.attention(name, 7, real)
    # on purpose: nobody looks at padding. What the tokens see of tokens is the same.
    token = torch.cat([torch.ones(4, 7, dtype=torch.bool), real], dim=1)
    pairs = token[:, :, None] & token[:, None, :]
    assert (ours & pairs).equal(wanted & pairs)
    assert not (ours & ~token[:, None, :]).any()
    assert (wanted & ~token[:, None, :] & token[:, :, None]).any() == (name in ("bar", "noncross"))


CASES = sorted(
    {
        key.split("/")[1]
        for key in RECORDED
        if key.startswith("finetuning/") and "decoder" not in key
    }
)


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_released_fine_tuning(case):
    name = (
        "bar" if "_bar_" in case else {"s2s": "seq2seq", "bi": "bidirectional"}[case.split("_")[0]]
    )
    lengths = ("short", "full", "long")
    ids = torch.stack([RECORDED[f"finetuning/{case}/{n}/input_ids"] for n in lengths])
    wanted = torch.stack([RECORDED[f"finetuning/{case}/{n}/input_mask"] for n in lengths]).bool()
    assert masks.attention(name, 7, ids[:, 7:] != 0, padding="finetuning").equal(wanted)
    ours = masks.attention(name, 7, ids[:, 7:] != 0)
    assert ours.equal(wanted) == (
        name != "bar"
    )  # on purpose: BAR's image part does not look at padding


def test_equal_to_the_released_decoder():
    wanted = RECORDED["finetuning/decoder/input_mask"].bool()
    assert masks.attention("seq2seq", 8, torch.ones(1, 128, dtype=torch.bool))[0].equal(wanted)


def test_no_row_is_empty():
    real = torch.tensor([[True, False, False], [True, True, True]])
    for name in set(masks.NAMES) - {"bi_seq2seq"}:
        for padding in masks.PADDING:
            assert masks.attention(name, 3, real, padding=padding).any(dim=2).all(), (name, padding)


def test_errors():
    real = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="'causal': expected one of bidirectional"):
        masks.attention("causal", 3, real)
    with pytest.raises(ValueError, match="padding='seen'"):
        masks.attention("bar", 3, real, padding="seen")
    with pytest.raises(ValueError, match="expected `seq2seq`"):
        masks.attention("bi_seq2seq", 3, real)
