"""MedViLL's pre-training and its four tasks on data where brightness says it all: each learns, and
not without the picture.
"""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from medvill_tasks_data import PRESET, WORDS, Fake, questions, tokenizer
from safetensors.torch import load_file, save_file
from train_helpers import Bar

from medxvl import (
    medvill_align,
    medvill_batch,
    medvill_finetune,
    medvill_pretrain,
    metrics,
    paths,
    presets,
    ranking,
    weights,
)
from medxvl import questions as asked
from medxvl.medvill import MedViLL
from medxvl.medvill_image import plain_view
from medxvl.tasks import classify, generate, retrieve, vqa, zero_shot

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def own_runs(tmp_path_factory):
    """The start that all masks share lies in a run folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield


@pytest.fixture(scope="module")
def data():
    return Fake()


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture(scope="module")
def pretrained(data, words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "medvill_pretrain"
    folder.mkdir()
    words.backend_tokenizer.save(str(folder / "tokenizer.json"))
    medvill_align.fit(
        PRESET, data, words, weights.shared_folder(PRESET, medvill_align.FOLDER), CPU, Bar()
    )
    log = medvill_pretrain.fit(PRESET, data, words, folder, CPU, Bar())
    model, _, told = weights.load_medvill(PRESET, folder, data)
    return model, log, folder, told


# --- pre-training ---------------------------------------------------------------------------------
def test_the_stages_follow_each_other(pretrained):
    _, log, folder, told = pretrained
    assert log.drop_duplicates("stage").stage.tolist() == ["matching", "objective"]
    objective = log[log.stage == "objective"]
    assert np.allclose(objective.total, objective.mlm + objective.itm)
    assert told.startswith("pre-trained ") and json.loads((folder / "best.json").read_text())


def test_weights_of_other_settings_are_refused(pretrained, data):
    folder = pretrained[2]
    with pytest.raises(ValueError, match="other settings, data or code.*smoke 11"):
        weights.load_medvill(presets.changed(PRESET, "medvill_rate=1e-9"), folder, data)
    with pytest.raises(FileNotFoundError, match="smoke 11"):
        weights.load_medvill(PRESET, folder / "nowhere", data)


def test_image_tokens_come_near_their_words(pretrained):
    log = pd.read_json(
        weights.shared_folder(PRESET, medvill_align.FOLDER) / "log.jsonl", lines=True
    )
    assert log.total.iloc[-3:].mean() < 0.8 * log.total.iloc[:3].mean()
    assert set(load_file(weights.aligned_start(PRESET))) > {
        medvill_align.WORDS,
        "image_proj.weight",
    }


def test_the_trunk_moves_in_the_alignment_alone(data, words):
    for kind, moves in ((medvill_align.Alignment, True), (medvill_pretrain.Pretraining, False)):
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
    aligner = medvill_align.Alignment(PRESET, data, words).build(CPU).eval()
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
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


def test_an_alignment_of_other_settings_or_data_is_refused(
    pretrained, data, words, tmp_path, monkeypatch
):
    """Masks and seeds share it; nothing else does. Another start is another pre-training."""
    corpus = medvill_batch.Corpus(data, "train", words, PRESET)
    made = medvill_align.made_with(PRESET, corpus)
    assert (
        medvill_align.made_with(
            presets.changed(PRESET, "medvill_mask=seq2seq seed=7 medvill_epochs=9"), corpus
        )
        == made
    )
    for other in ("medvill_alignment_rate=1e-9", "medvill_crop_low=0.5", "precision=bf16"):
        changed = presets.changed(PRESET, other)
        assert medvill_align.made_with(changed, corpus) != made
        with pytest.raises(ValueError, match="run_all.sh smoke 10 --force"):
            medvill_pretrain.fit(changed, data, words, tmp_path / "pretrain", CPU, Bar())
    before, file = weights.fingerprint_of(PRESET, data, MedViLL), weights.aligned_start(PRESET)
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    there = weights.shared_folder(PRESET, medvill_align.FOLDER)
    there.mkdir(parents=True)
    save_file({k: v + 1 for k, v in load_file(file).items()}, there / file.name)
    assert weights.fingerprint_of(PRESET, data, MedViLL) != before


def test_without_the_start_it_says_how_to_make_it(data, words, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    with pytest.raises(FileNotFoundError, match="run_all.sh smoke 10"):
        medvill_pretrain.fit(PRESET, data, words, tmp_path / "pretrain", CPU, Bar())


def test_image_tokens_get_the_words_length(pretrained, data, words, tmp_path):
    task = medvill_pretrain.Pretraining(PRESET, data, words)
    task.build(CPU)
    state = load_file(weights.aligned_start(PRESET))
    about = {"medxvl": json.dumps({"settings": medvill_align.made_with(PRESET, task.corpus)})}
    save_file(
        state | {"image_proj.weight": 50 * state["image_proj.weight"]},
        tmp_path / "long.safetensors",
        metadata=about,
    )
    medvill_align.start(task.model, task.corpus, tmp_path / "long.safetensors", CPU)
    tokens = task.model.image_proj(
        task.model.trunk(plain_view(task.corpus.images(np.arange(20)), PRESET))
    )
    wanted = task.model.bert.embeddings.word_embeddings.weight.norm(dim=1).mean()
    assert tokens.norm(dim=2).mean().item() == pytest.approx(wanted.item(), rel=0.2)


def test_matching_rows_have_their_controls(pretrained, data, words):
    model, _, _, told = pretrained
    corpus = medvill_batch.Corpus(data, "valid", words, PRESET)
    untrained = weights.untrained(PRESET, words, kind=MedViLL)
    rows = medvill_pretrain.evaluate(
        model, untrained, corpus, CPU, dataset=data.label, checkpoint=told, preset=PRESET
    )
    assert [row.get("control", "") for row in rows] == ["chance", "", "untrained"]
    y, scores, image = medvill_pretrain.match_pairs(model, corpus, CPU)
    assert y.sum() == len(corpus) and len(y) == 5 * len(corpus) and len(image) == len(y)
    assert rows[1]["value"] == pytest.approx(metrics.auroc(y, scores))


@pytest.mark.parametrize("mask", ["bidirectional", "seq2seq", "bi_seq2seq", "noncross", "bar"])
def test_every_mask_is_pretrained_and_scored(mask, pretrained, data, words, tmp_path):
    preset = presets.changed(PRESET, f"medvill_mask={mask} medvill_epochs=1")
    log = medvill_pretrain.fit(preset, data, words, tmp_path, CPU, Bar())
    assert np.isfinite(log.total).all()
    score = next(iter(json.loads((tmp_path / "best.json").read_text()).values()))
    assert 0 <= score <= 1 and (mask != "seq2seq" or score == 0.5), (
        "with Seq2Seq [CLS] sees no word: all reports are equal"
    )


def test_word_attention(pretrained, data, words):
    image, chosen, maps = medvill_pretrain.word_attention(
        pretrained[0], words, data, np.ones(len(data.index), bool), CPU
    )
    assert (
        image.shape == (40, 40)
        and maps.shape == (len(chosen), 2, 2)
        and set(chosen) <= set(" ".join(WORDS.values()).split())
    )
    assert (
        medvill_pretrain.word_attention(
            pretrained[0], words, data, np.zeros(len(data.index), bool), CPU
        )
        is None
    )


# --- classification -------------------------------------------------------------------------------
def test_targets(data):
    y = classify.targets(data, np.arange(3))
    assert y.shape == (3, 15) and y[:, classify.CLASSES.index("Cardiomegaly")].tolist() == [1, 0, 0]
    uncertain = Fake(3)
    uncertain.index["Cardiomegaly"] = -1.0
    uncertain.index["Edema"] = uncertain.index["No Finding"] = np.nan
    assert classify.targets(uncertain, np.arange(3))[:, -1].tolist() == [1, 1, 1], (
        "nothing positive: Others"
    )


def test_classification_from_the_image_alone(pretrained, data, words, tmp_path):
    model = pretrained[0]
    tuned, told = classify.fit(PRESET, data, model, words, tmp_path, CPU, Bar(), "image only")
    rows = data.rows("test")
    y, patients = classify.targets(data, rows), data.index.patient_id.iloc[rows].to_numpy()
    other = rows[zero_shot.shuffled(len(rows), 0)]
    found = {}
    for name, images_of in (("own", None), ("other", other)):
        scores = classify.predict(tuned, words, data, rows, "image only", CPU, images_of)
        made = classify.evaluate(
            y, scores, patients, dataset="d", model="m", checkpoint=told, n_resamples=40
        )
        found[name] = {row["metric"]: row for row in made if row["subset"] == ""}
    assert (
        found["own"]["auroc_macro_defined"]["value"]
        > 0.95
        > 0.75
        > found["other"]["auroc_macro_defined"]["value"]
    )
    assert np.isnan(found["own"]["auroc_macro"]["value"]), (
        "most classes have no positive here: published macro has no value"
    )
    assert (
        found["own"]["auroc_micro"]["ci_low"]
        <= found["own"]["auroc_micro"]["value"]
        <= found["own"]["auroc_micro"]["ci_high"]
    )
    again, same = classify.fit(PRESET, data, model, words, tmp_path, CPU, Bar(), "image only")
    assert same == told, "a finished training is read back"
    assert next(model.parameters()).grad is None and model.training is False, (
        "the start is left alone"
    )


def test_the_report_alone_is_read_without_image_tokens(pretrained, data, words, tmp_path):
    tuned, _ = classify.fit(PRESET, data, pretrained[0], words, tmp_path, CPU, Bar(), "report only")
    rows = data.rows("test")
    scores = classify.predict(tuned, words, data, rows, "report only", CPU)
    blank = Fake()
    blank.pixels[:] = 0
    assert np.array_equal(scores, classify.predict(tuned, words, blank, rows, "report only", CPU))
    with pytest.raises(ValueError, match="expected one of image and report"):
        classify.fit(PRESET, data, pretrained[0], words, tmp_path, CPU, Bar(), "image")


def test_macro_and_micro_by_hand():
    y, scores = (
        np.array([[1, 0], [0, 0], [1, 1]] + [[0, 1]]).astype(float),
        np.array([[0.9, 0.2], [0.1, 0.6], [0.4, 0.8], [0.2, 0.7]]),
    )
    y, scores = np.pad(y, ((0, 0), (0, 13))), np.pad(scores, ((0, 0), (0, 13)))
    made = classify.evaluate(y, scores, list("abcd"), dataset="d", model="m", n_resamples=20)
    found = {row["metric"]: row["value"] for row in made if row["subset"] == ""}
    assert found["auroc_macro_defined"] == 1.0 and np.isnan(found["auroc_macro"])
    assert found["f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1)), (
        "3 right, 1 too many, 1 missed"
    )
    assert found["f1_macro_defined"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_the_words_give_the_labels_away(data):
    train, test = data.rows("train"), data.rows("test")
    texts = medvill_batch.report_texts(data, np.arange(len(data.index)))
    scores = classify.text_gauge(
        [texts[k] for k in train], classify.targets(data, train), [texts[k] for k in test]
    )
    assert np.nanmean(metrics.auroc(classify.targets(data, test), scores)) == 1


def test_data_of_another_place(pretrained, data, words, tmp_path):
    tuned = {
        "report only": classify.fit(
            PRESET, data, pretrained[0], words, tmp_path, CPU, Bar(), "report only"
        )
    }
    bare = Fake(60)
    bare.has_images = False
    rows = classify.transfer(
        tuned | {"image only": tuned["report only"]}, words, bare, CPU, model="m", n_resamples=20
    )
    assert {row["control"] for row in rows} == {"chance", "report only", "words of the report"}, (
        "no images: no image model"
    )
    assert {row["split"] for row in rows if row["control"] == "report only"} == {"all"}


def value_of(rows, control, metric, subset=""):
    (found,) = [
        r["value"]
        for r in rows
        if (r["control"], r["metric"], r["subset"]) == (control, metric, subset)
    ]
    return found


def test_another_place_has_its_shuffled_images(pretrained, data, words, tmp_path):
    """On data with images every task says what is left when they are another study's."""
    elsewhere, (model, about) = Fake(60, seed=5), (pretrained[0], {"model": "m", "n_resamples": 20})
    given = classify.INPUTS[1]
    tuned = {
        given: classify.fit(PRESET, data, model, words, tmp_path / "classify", CPU, Bar(), given)
    }
    rows = classify.transfer(tuned, words, elsewhere, CPU, **about)
    right, other = (
        value_of(rows, f"{given}{suffix}", "auroc_macro_defined") for suffix in ("", ", shuffled")
    )
    assert right > 0.9 > 0.75 > other
    matcher, told = retrieve.fit(PRESET, data, model, words, tmp_path / "retrieve", CPU, Bar())
    rows = retrieve.transfer(
        matcher, (model, "start"), words, elsewhere, CPU, model="m", preset=PRESET, checkpoint=told
    )
    assert {(r["control"], r.get("checkpoint")) for r in rows} == {
        ("", told),
        ("shuffled images", told),
        ("mean tokens", "start"),
        ("chance", None),
    }
    assert value_of(rows, "", "mrr", subset="image to report") > value_of(
        rows, "shuffled images", "mrr", subset="image to report"
    )
    writer, told = generate.fit(PRESET, data, model, words, tmp_path / "generate", CPU, Bar())
    rows = generate.transfer(writer, words, elsewhere, CPU, checkpoint=told, **about)
    assert (
        value_of(rows, "", "label_f1") > 0.9 > 0.75 > value_of(rows, "shuffled images", "label_f1")
    )


# --- retrieval ------------------------------------------------------------------------------------
def test_retrieval(pretrained, data, words, tmp_path):
    tuned, told = retrieve.fit(PRESET, data, pretrained[0], words, tmp_path, CPU, Bar())
    rows = retrieve.pool(data, "test", PRESET)
    assert len(rows) == 20 and (np.diff(rows) > 0).all()
    scores, relevant = retrieve.score(tuned, words, data, rows, CPU), retrieve.relevance(data, rows)
    # each pair scored alone says the same
    tokens = medvill_finetune.Pictures(data, rows, PRESET, CPU).tokens(
        tuned.model.trunk, np.arange(20)
    )
    ids, real = medvill_batch.encode(
        words, medvill_batch.report_texts(data, rows), PRESET.medvill_text
    )
    for image, report in ((0, 3), (7, 1), (19, 19)):
        part = slice(0, int(real[report].sum()))
        joint = medvill_finetune.joint(
            words, PRESET, ids[report : report + 1, part], real[report : report + 1, part], 4
        )
        with torch.no_grad():
            logits = tuned.logits(tokens[image : image + 1], joint)[0]
        assert scores[image, report] == pytest.approx((logits[1] - logits[0]).item(), abs=1e-4)
    patients = data.index.patient_id.iloc[rows].to_numpy()
    made = retrieve.evaluate(
        scores, relevant, patients, dataset="d", model="m", preset=PRESET, checkpoint=told
    )
    made += retrieve.chance(relevant, dataset="d")
    keys = {(r["subset"], r["metric"]) for r in made if r.get("control")}
    assert keys == {(r["subset"], r["metric"]) for r in made if not r.get("control")}, (
        "every row has its chance"
    )
    assert {r["metric"] for r in made} == set(ranking.NAMES)


def test_both_directions_read_the_table_of_scores_their_way():
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])  # every image likes report 0 best
    rows = retrieve.evaluate(
        scores, np.eye(3, dtype=bool), ["a", "b", "c"], dataset="d", model="m", preset=PRESET
    )
    found = {row["subset"]: row["value"] for row in rows if row["metric"] == "hit@1"}
    assert found["image to report"] == pytest.approx(1 / 3) and found["report to image"] == 0, (
        "ties count against"
    )


def test_mean_tokens_and_examples(pretrained, data, words):
    rows = retrieve.pool(data, "test", PRESET)
    means = retrieve.mean_token_scores(pretrained[0], words, data, rows, CPU)
    assert means.shape == (20, 20) and (np.abs(means) <= 1 + 1e-5).all()
    relevant, shown = retrieve.relevance(data, rows), np.ones(len(data.index), bool)
    texts = medvill_batch.report_texts(data, rows)
    items = retrieve.examples(means, relevant, texts, data, rows, shown, 0)
    assert len(items) == 3 and all(len(item["lines"]) == 4 for item in items)
    assert retrieve.examples(means, relevant, texts, data, rows, ~shown, 0) == [], (
        "nothing that may not be shown"
    )


# --- questions ------------------------------------------------------------------------------------
def test_answers_need_the_picture(pretrained, data, words, tmp_path):
    table = questions(data)
    tuned, answers, _ = vqa.fit(
        PRESET, data, table, pretrained[0], words, tmp_path / "a", CPU, Bar()
    )
    blind, same, _ = vqa.fit(
        PRESET, data, table, pretrained[0], words, tmp_path / "b", CPU, Bar(), sees=False
    )
    test = table[table.split == "test"].reset_index(drop=True)
    right = {
        "own": vqa.predict(tuned, words, data, test, answers, CPU),
        "other": vqa.predict(
            tuned, words, data, test, answers, CPU, images_of=asked.swapped(test, 0)
        ),
        "blind": vqa.predict(blind, words, data, test, same, CPU, sees=False),
        "majority": asked.majority(table[table.split == "train"], test),
    }
    right = {name: (given == test.answer.to_numpy()).mean() for name, given in right.items()}
    assert right["own"] > 0.9 > 0.8 > max(right["other"], right["blind"], right["majority"]), right
    assert answers == ["no", "yes"]


def test_held_out_images_choose_the_epoch(pretrained, data, words):
    task = vqa.Answering(PRESET, data, questions(data), pretrained[0], words, CPU)
    assert not set(task.train.image_id) & set(task.valid.image_id) and len(task.valid)
    assert set(task.train.split) | set(task.valid.split) == {"train"}


# --- reports --------------------------------------------------------------------------------------
@pytest.mark.parametrize("objective", ["every", "masked"])
def test_reports_say_what_the_image_shows(objective, pretrained, data, words, tmp_path):
    preset = replace(
        PRESET, generate_objective=objective, mask_share=0.5 if objective == "masked" else 0.15
    )
    tuned, told = generate.fit(preset, data, pretrained[0], words, tmp_path, CPU, Bar())
    rows = data.rows("test")
    wanted = medvill_batch.report_texts(data, rows)
    other = rows[zero_shot.shuffled(len(rows), 0)]
    given = {name: generate.write(tuned, words, data, rows, CPU, **more) for name, more in (
        ("greedy", {}), ("beams", {"beams": 3}), ("other", {"images_of": other}))}  # fmt: skip
    same = {
        name: np.mean([a.replace(" ,", ",") == b for a, b in zip(texts, wanted, strict=True)])
        for name, texts in given.items()
    }
    losses = generate.likelihood(tuned, words, data, rows, CPU)
    if objective == "every":
        assert same["greedy"] > 0.9 and same["beams"] > 0.9 and same["other"] < 0.7, same
    mismatched = generate.likelihood(tuned, words, data, rows, CPU, other)
    assert losses[0].sum() < mismatched[0].sum() and np.array_equal(losses[1], mismatched[1])
    patients = data.index.patient_id.iloc[rows].to_numpy()
    made = generate.evaluate(
        given["greedy"],
        wanted,
        patients,
        dataset="d",
        model="m",
        losses=losses,
        checkpoint=told,
        n_resamples=30,
    )
    found = {row["metric"]: row["value"] for row in made if row["subset"] == ""}
    assert (
        found["perplexity"] == pytest.approx(np.exp(losses[0].sum() / losses[1].sum()))
        and found["perplexity"] >= 1
    )


def test_teacher_forcing_leans_on_the_true_words(pretrained, data, words):
    rows = data.rows("test")
    raw = generate.Writer(pretrained[0])
    forced = generate.teacher_forced(raw, words, data, rows, CPU)
    changed = Fake()
    changed.index["findings"] = changed.index["findings"].to_numpy()[::-1]
    assert len(forced) == len(rows) and forced != generate.teacher_forced(
        raw, words, changed, rows, CPU
    )
    assert generate.write(raw, words, data, rows, CPU) == generate.write(
        raw, words, changed, rows, CPU
    ), "free-running does not"


def test_baselines(pretrained, data):
    train, test = data.rows("train"), data.rows("test")
    texts = ["a b", "c", "a  B", "d", "d"]
    assert generate.most_common_report(texts, np.array([0, 1, 0, 1, 1])) == "d", (
        "among equals that of the commonest findings"
    )
    assert generate.nearest_by_text(
        ["left effusion", "no edema"], ["edema", "effusion"]
    ).tolist() == [1, 0]
    nearest = generate.nearest_by_image(generate.Writer(pretrained[0]), data, train, test, CPU)
    same = data.index.findings.iloc[nearest].to_numpy() == data.index.findings.iloc[test].to_numpy()
    assert set(nearest) <= set(train) and same.mean() > 0.9


def test_reports_of_another_place(pretrained, data, words):
    bare = Fake(60)
    bare.has_images = False
    rows = generate.transfer(
        generate.Writer(pretrained[0]), words, bare, CPU, model="m", checkpoint="c", n_resamples=20
    )
    assert {row["control"] for row in rows} == {"most common report", "nearest by MeSH"}
    assert {row["n"] for row in rows} == {15}
    best = {row["control"]: row["value"] for row in rows if row["metric"] == "bleu1"}
    assert (
        best["nearest by MeSH"] == pytest.approx(1, abs=1e-6) and best["most common report"] < 0.9
    )


def test_batches_of_like_length_leave_nothing_out(pretrained, data, words):
    task = generate.Writing(PRESET, data, pretrained[0], words, CPU)
    order = task.order(0, np.random.default_rng(0))
    assert len(set(order)) == len(order) == task.n // task.size * task.size
