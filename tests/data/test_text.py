"""Report text: cleaning against the release's own output, sentences, masking, the tokenizer."""

import json
import os
import subprocess
import sys

import pytest
import torch

from medxvl.config import paths
from medxvl.data import text

CASES = json.loads((paths.ROOT / "tests" / "parity" / "xvl_text.json").read_text(encoding="utf-8"))
CORPUS = [
    "small left pleural effusion.",
    "no acute process.",
    "mild cardiomegaly and pulmonary edema.",
] * 3


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_clean_report_equals_the_release(case):
    assert text.clean_report(case["text"], 120) == case["pre_caption_120"]
    assert text.clean_report(case["text"], 10) == case["pre_caption_10"]


def test_sentences_equal_the_release_but_for_decimals():
    """A full stop between two digits ends no sentence here; everything else is cut as in the
    release.
    """
    differing = []
    for case in CASES:
        ours, theirs = (
            text.sentences(case["pre_caption_120"]),
            [s.strip() for s in case["split_pre"]],
        )
        if ours != theirs:
            differing.append(case["pre_caption_120"])
            assert any(
                a.isdigit() and b == "." and c.isdigit()
                for a, b, c in zip(*[case["pre_caption_120"][k:] for k in range(3)], strict=False)
            )
    assert 1 <= len(differing) < 6


def test_a_decimal_is_not_split():
    report = "there is a 1.5 cm nodule. no effusion."
    release = [s.strip() for s in report.split(".") if len(s.strip()) >= 3]
    assert release == ["there is a 1", "5 cm nodule", "no effusion"]
    assert text.sentences(report) == ["there is a 1.5 cm nodule", "no effusion"]


@pytest.mark.parametrize("report", ["", ".", "ok", "a.b.c.d.", " . . "])
def test_a_report_without_a_sentence(report):
    assert text.sentences(report) == []


def test_join_is_what_sentences_undo():
    parts = ["no acute process", "there is a 1.5 cm nodule"]
    assert text.sentences(text.join(parts)) == parts


# --- the tokenizer --------------------------------------------------------------------------------
def test_the_vocabulary_does_not_depend_on_the_hash_seed():
    """Two fresh processes with other hash seeds learn the same tokens: else no checkpoint could be
    repeated.
    """
    code = (
        "import hashlib, sys, numpy as np; from data_prep.phantom.write import sample_findings;"
        "from data_prep.phantom.report import write_report; from medxvl.data import text;"
        "rng = np.random.default_rng(3);"
        "reports = [text.clean_report(write_report(sample_findings(rng), 'AP', rng)[0]) for _ "
        "in range(300)];"
        "tokenizer = text.train_tokenizer(reports, 400);"
        "print(hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(), "
        "len(tokenizer))"
    )
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"},
        )
        for seed in ("1", "2222")
    ]
    printed = [job.communicate()[0].split() for job in jobs]
    assert all(job.returncode == 0 for job in jobs)
    assert printed[0] == printed[1] and int(printed[0][1]) > 200


def test_special_tokens_have_the_ids_of_cxr_bert_and_any_word_can_be_spelt():
    tokenizer = text.train_tokenizer(CORPUS, 120)
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [
        0,
        1,
        2,
        3,
        4,
    ]
    ids, mask = text.encode(tokenizer, ["zygoma jaw quix", "effusion"], 64)
    assert 1 not in ids, "a letter that the corpus lacks became [UNK]"
    assert ids[:, 0].tolist() == [2, 2] and ids.shape == mask.shape
    assert ((ids == 0) == (mask == 0)).all(), "padding is masked, and nothing else"
    assert text.encode(tokenizer, ["small left pleural effusion " * 9], 8)[0].shape == (1, 8)


def test_a_saved_tokenizer_gives_the_same_ids(tmp_path):
    tokenizer = text.train_tokenizer(CORPUS, 120)
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = text.load_tokenizer(tmp_path / "tokenizer.json")
    assert torch.equal(text.encode(again, CORPUS, 24)[0], text.encode(tokenizer, CORPUS, 24)[0])
    assert again.pad_token_id == 0 and len(again) == len(tokenizer)


# --- masking --------------------------------------------------------------------------------------
@pytest.mark.numeric
def test_masking():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1000, (400, 50), generator=generator)
    ids[:, 0], ids[:, 40], ids[:, 41:] = 2, 3, 0
    before = ids.clone()
    masked, labels = text.mask_tokens(ids, 1000, 0.15, generator)
    assert torch.equal(ids, before), "the input is left as it was"
    chosen = labels != -100
    words = ids >= 5
    assert not (chosen & ~words).any(), "a special token is never predicted"
    assert torch.equal(masked[~chosen], ids[~chosen]) and torch.equal(labels[chosen], ids[chosen])
    # Bounds of three SDs and more: 15,600 words are drawn from, about 2,340 chosen
    assert abs(chosen[words].float().mean() - 0.15) < 0.01
    share = (masked[chosen] == 4).float().mean(), (masked[chosen] == ids[chosen]).float().mean()
    assert abs(share[0] - 0.8) < 0.03 and abs(share[1] - 0.1) < 0.03
    assert (masked[chosen] >= 4).all() and (masked[chosen] < 1000).all()
    again = text.mask_tokens(ids, 1000, 0.15, torch.Generator().manual_seed(1))
    assert torch.equal(
        again[0], text.mask_tokens(ids, 1000, 0.15, torch.Generator().manual_seed(1))[0]
    )


def test_vocabulary_of_released_weights(tmp_path):
    """Read from vocab.txt it is the tokenizer that wrote it; one with other special tokens is
    refused.
    """
    made = text.train_tokenizer(["small left effusion. no acute process."] * 3, 80)
    ids = made.get_vocab()
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(sorted(ids, key=ids.get)) + "\n", encoding="utf-8")
    assert text.read_vocabulary(path).backend_tokenizer.to_str() == made.backend_tokenizer.to_str()
    path.write_text("[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nlung\n", encoding="utf-8")
    uncased = text.read_vocabulary(path, special_first=False)  # as bert-base-uncased has them
    assert uncased("lung")["input_ids"] == [3, 6, 4] and uncased.mask_token_id == 5
    with pytest.raises(ValueError, match=r"expected to begin with \[PAD\], \[UNK\]"):
        text.read_vocabulary(path)
    with pytest.raises(FileNotFoundError, match="vocab.txt: expected the vocabulary"):
        text.read_vocabulary(tmp_path / "none" / "vocab.txt")
