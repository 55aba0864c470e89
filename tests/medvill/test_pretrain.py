"""MedViLL's alignment and pre-training on data where brightness says it all."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from medvill_tasks_data import CPU, PRESET, WORDS, Fake, tokenizer
from safetensors.torch import load_file, save_file
from tolerance import assert_close, rounding
from train_helpers import Bar

from medxvl.config import paths, presets
from medxvl.evaluation import metrics
from medxvl.medvill import alignment, checkpoints, pretrain
from medxvl.medvill import corpus as corpora
from medxvl.medvill.image_encoder import plain_view

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def data():
    return Fake()


@pytest.fixture(scope="module")
def words():
    return tokenizer()


def test_the_stages_follow_each_other(pretrained):
    _, log, folder, told = pretrained
    assert log.drop_duplicates("stage").stage.tolist() == ["matching", "objective"]
    objective = log[log.stage == "objective"]
    both = (objective.mlm + objective.itm).to_numpy()
    assert_close(objective.total.to_numpy(), both, terms=2, dtype=torch.float32)
    assert told.startswith("pre-trained ") and json.loads((folder / "best.json").read_text())


def test_weights_of_other_settings_are_refused(pretrained, data):
    folder = pretrained[2]
    with pytest.raises(ValueError, match="other settings or data.*smoke 11"):
        checkpoints.load_best(presets.changed(PRESET, "medvill_rate=1e-9"), folder, data)
    with pytest.raises(FileNotFoundError, match="smoke 11"):
        checkpoints.load_best(PRESET, folder / "nowhere", data)


def test_image_tokens_come_near_their_words(pretrained):
    log = pd.read_json(
        paths.shared_checkpoints(PRESET.name, checkpoints.ALIGNED_FOLDER) / "log.jsonl", lines=True
    )
    assert log.total.iloc[-3:].mean() < 0.8 * log.total.iloc[:3].mean()
    assert set(load_file(checkpoints.aligned_start(PRESET))) > {
        alignment.WORDS,
        "image_proj.weight",
    }


def test_the_trunk_moves_in_the_alignment_alone(pretrained, data, words):
    for kind, moves in ((alignment.Alignment, True), (pretrain.Pretraining, False)):
        task = kind(PRESET, data, words)
        model = task.build(CPU).train()
        trunk, rng, generator = (
            task.model.trunk,
            np.random.default_rng(0),
            torch.Generator().manual_seed(0),
        )
        _, inputs = task.batch(0, 0, task.order(0, rng), rng, generator)
        before = [b.clone() for b in trunk.net.buffers()]
        model(*inputs)["total"].backward()
        assert any(p.grad is not None for p in trunk.net.parameters()) is moves
        assert (
            any(not b.equal(old) for b, old in zip(trunk.net.buffers(), before, strict=True))
            is moves
        )


def test_the_contrast_by_hand(data, words):
    """Both cosines of two images and two reports, a word that occurs twice counting twice."""
    aligner = alignment.Alignment(PRESET, data, words).build(CPU).eval()
    model, ids = aligner.model, torch.tensor([[5, 6, 6], [7, 5, 0]])
    images = torch.rand(2, 1, PRESET.medvill_image_size, PRESET.medvill_image_size)
    with torch.no_grad():
        tokens, table = (
            model.image_proj(model.trunk(images)),
            model.bert.embeddings.word_embeddings.weight,
        )
        losses = []
        said = [[5, 6, 6], [7, 5]]
        for pair in (
            lambda i, t: torch.cosine_similarity(tokens[i].mean(0), table[said[t]].mean(0), dim=0),
            lambda i, t: (
                3
                * torch.stack(
                    [torch.cosine_similarity(tokens[i], table[w], dim=1).max() for w in said[t]]
                ).mean()
            ),
        ):
            logits = 10 * torch.stack([torch.stack([pair(i, t) for t in (0, 1)]) for i in (0, 1)])
            losses += [
                torch.nn.functional.cross_entropy(x, torch.arange(2)) for x in (logits, logits.t())
            ]
        found = aligner(images, ids, ids > 0)["total"]
    # of logits of up to 10 * (1 + 3), after layers of 24
    wanted = torch.stack(losses).mean()
    assert abs(found - wanted) < rounding(40.0, 4 * 24, torch.float32)


def test_an_alignment_of_other_settings_or_data_is_refused(
    pretrained, data, words, tmp_path, monkeypatch
):
    """Masks and seeds share it; nothing else does. Another start is another pre-training."""
    corpus = corpora.Corpus(data, "train", words, PRESET)
    made = alignment.recipe(PRESET, corpus, seed=False)
    assert (
        alignment.recipe(
            presets.changed(PRESET, "medvill_mask=seq2seq seed=7 medvill_epochs=9"),
            corpus,
            seed=False,
        )
        == made
    )
    for other in ("medvill_alignment_rate=1e-9", "medvill_crop_low=0.5", "precision=bf16"):
        changed = presets.changed(PRESET, other)
        assert alignment.recipe(changed, corpus, seed=False) != made
        with pytest.raises(ValueError, match="run_all.sh smoke 10 --force"):
            pretrain.fit(changed, data, words, tmp_path / "pretrain", CPU, Bar())
    before, file = checkpoints.recipe(PRESET, data, words), checkpoints.aligned_start(PRESET)
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    there = paths.shared_checkpoints(PRESET.name, checkpoints.ALIGNED_FOLDER)
    there.mkdir(parents=True)
    save_file({k: v + 1 for k, v in load_file(file).items()}, there / file.name)
    assert checkpoints.recipe(PRESET, data, words) != before


def test_without_the_start_it_says_how_to_make_it(data, words, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    with pytest.raises(FileNotFoundError, match="run_all.sh smoke 10"):
        pretrain.fit(PRESET, data, words, tmp_path / "pretrain", CPU, Bar())


def test_image_tokens_get_the_words_length(pretrained, data, words, tmp_path):
    task = pretrain.Pretraining(PRESET, data, words)
    task.build(CPU)
    state = load_file(checkpoints.aligned_start(PRESET))
    recipe = alignment.recipe(PRESET, task.corpus, seed=False)
    about = {"medxvl": json.dumps(recipe.about())}
    save_file(
        state | {"image_proj.weight": 50 * state["image_proj.weight"]},
        tmp_path / "long.safetensors",
        metadata=about,
    )
    alignment.start(task.model, task.corpus, tmp_path / "long.safetensors", CPU)
    tokens = task.model.image_proj(
        task.model.trunk(plain_view(task.corpus.images(np.arange(20)), PRESET))
    )
    wanted = task.model.bert.embeddings.word_embeddings.weight.norm(dim=1).mean()
    # the length was set on another set of images, of the same three kinds in other shares
    assert tokens.norm(dim=2).mean().item() == pytest.approx(wanted.item(), rel=0.2)


def test_matching_rows_have_their_controls(pretrained, data, words):
    model, _, _, told = pretrained
    corpus = corpora.Corpus(data, "valid", words, PRESET)
    untrained = checkpoints.untrained(PRESET, words)
    rows = pretrain.evaluate(
        model, untrained, corpus, CPU, dataset=data.label, checkpoint=told, preset=PRESET
    )
    assert [row.get("control", "") for row in rows] == ["chance", "", "untrained"]
    y, scores, image = pretrain.pairs_with_other_findings(model, corpus, CPU)
    assert y.sum() == len(corpus) and len(y) == 5 * len(corpus) and len(image) == len(y)
    assert_close(rows[1]["value"], metrics.auroc(y, scores), terms=len(y))


@pytest.mark.parametrize("mask", ["bidirectional", "seq2seq", "bi_seq2seq", "noncross", "bar"])
def test_every_mask_is_pretrained_and_scored(mask, pretrained, data, words, tmp_path):
    preset = presets.changed(PRESET, f"medvill_mask={mask} medvill_epochs=1")
    log = pretrain.fit(preset, data, words, tmp_path, CPU, Bar())
    assert np.isfinite(log.total).all()
    score = next(iter(json.loads((tmp_path / "best.json").read_text()).values()))
    assert 0 <= score <= 1 and (mask != "seq2seq" or score == 0.5), (
        "with Seq2Seq [CLS] sees no word: all reports are equal"
    )


def test_word_attention(pretrained, data, words):
    image, chosen, maps = pretrain.word_attention(
        pretrained[0], words, data, np.ones(len(data.index), bool), CPU
    )
    assert (
        image.shape == (40, 40)
        and maps.shape == (len(chosen), 2, 2)
        and set(chosen) <= set(" ".join(WORDS.values()).split())
    )
    assert (
        pretrain.word_attention(pretrained[0], words, data, np.zeros(len(data.index), bool), CPU)
        is None
    )
