"""Retrieval and answers by ranking, with X-VL: shortlists and their order, ties, and a model that
tells three kinds of image apart.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from medvill_tasks_data import Fake, questions, tokenizer
from tolerance import assert_close, rounding
from train_helpers import Bar

from medxvl.config import presets
from medxvl.data import questions as asked
from medxvl.data import text
from medxvl.evaluation import controls, metrics, retrieval
from medxvl.xvl import checkpoints, pretrain, scoring
from medxvl.xvl import writer as xvl_writer
from medxvl.xvl.tasks import retrieve, vqa

pytestmark = pytest.mark.numeric
CPU = torch.device("cpu")
PRESET = presets.load(
    "smoke",
    "vocabulary=120 image_size=32 resize=40 vision_width=24 text_width=24 text_heads=2 "
    "text_hidden=24 fusion_hidden=24 "
    "projection=16 queue_size=32 contrast_epochs=25 contrast_rate=4e-3 epochs=4 bootstrap=40 "
    "checkpoint_every=0 "
    "xvl_retrieve_pool=20 xvl_retrieve_shortlist=6 xvl_vqa_epochs=20 xvl_vqa_rate=3e-3 "
    "writer_copies=0",
)

# Additions behind a score: encoders, fusion and writer, 24 wide, at most 8 layers one on the other.
CHAIN = 8 * 24


@pytest.fixture(scope="module")
def data():
    return Fake()


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture(scope="module")
def trained(data, words, tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("xvl")
    words.backend_tokenizer.save(str(folder / "tokenizer.json"))
    pretrain.fit(PRESET, data, words, folder, CPU, Bar())
    yield checkpoints.load_best(PRESET, folder, data)[0]
    torch.set_num_threads(before)


def scored(model, data, words, rows, texts):
    read = scoring.distinct(words, texts, PRESET)
    pictures = scoring.encode_images([model], data, rows, CPU)
    return (
        retrieve.score([model], pictures, read, PRESET.xvl_retrieve_shortlist),
        read,
        pictures,
    )


def test_the_matching_head_reorders_the_shortlist_and_nothing_else():
    contrast = np.array([[0.9, 0.8, 0.7, -0.2, 0.1]])
    odds = np.array(
        [[-7.0, 3.0, -5.0, 99.0, np.nan]]
    )  # 99: read for another query, not on the shortlist of this one
    table = retrieve.reranked(contrast, odds, 3)
    assert np.argsort(-table[0]).tolist() == [1, 2, 0, 4, 3]
    assert np.argsort(-retrieve.reranked(contrast, contrast * 0 - 1, 1)[0]).tolist() == [
        0,
        1,
        2,
        4,
        3,
    ]
    assert np.argsort(-retrieve.reranked(contrast, -contrast, 99)[0]).tolist() == [
        3,
        4,
        2,
        1,
        0,
    ], "all are on the list"


def test_each_pair_alone_says_the_same(data, words):
    model = checkpoints.untrained(PRESET, words)
    rows, texts = (
        data.rows("test")[:7],
        ["large heart is seen.", "clear.", "edema of the lungs. clear chest.", "nothing acute."],
    )
    scores, read, pictures = scored(model, data, words, rows, texts)
    wanted = PRESET.xvl_retrieve_shortlist
    assert (~np.isnan(scores["matching"])).sum(0).min() >= min(wanted, 7) and np.isfinite(
        scores["matching"]
    ).sum(1).min() == 4
    for image, report in ((0, 0), (3, 1), (6, 2)):
        ids = words(texts[report], return_tensors="pt")["input_ids"]
        mask = torch.ones_like(ids)
        with torch.no_grad():
            states, feature = model.online.encode_text(ids, mask)
            logits = model.match_logits(states, mask, pictures[0][0][[image]])[0]
            cosine = (pictures[0][1][image] @ feature[0]).item()
        column = read.which[report]
        odds = (logits[1] - logits[0]).item()
        if not np.isnan(scores["matching"][image, column]):
            limit = rounding(logits, CHAIN)
            assert abs(scores["matching"][image, column] - odds) < limit
            added = odds + cosine / model.temperature.item()
            limit += rounding(1 / model.temperature, CHAIN)
            assert abs(scores["sum"][image, column] - added) < limit
        # a cosine is a sum of products of unit vectors, however small it comes out
        limit = rounding(1.0, CHAIN, torch.float32)
        assert abs(scores["contrast"][image, column] - cosine) < limit


def test_texts_that_read_the_same_are_one_and_tie(words):
    long = "large heart is seen " * 20
    read = scoring.distinct(
        words, ["clear chest.", long + "edema.", "clear chest.", long + "acute."], PRESET
    )
    assert len(read.ids) == 2 and read.which[0] == read.which[2] != read.which[1] == read.which[3]
    found = retrieve.ceiling(read.which, list("abcd"), dataset="d", preset=PRESET)
    assert [r["value"] for r in found if r["metric"] == "hit@1"] == [0, 0], (
        "each has a twin, and ties count against"
    )
    assert [r["value"] for r in found if r["metric"] == "hit@5"] == [1, 1]


def test_what_was_learned_is_found(trained, data, words):
    rows, texts = retrieve.pool(data, "test", PRESET)
    assert len(rows) == 20 and (np.diff(rows) > 0).all()
    scores, read, _ = scored(trained[0], data, words, rows, texts)
    relevant, patients = (
        read.which[:, None] == read.which,
        data.index.patient_id.iloc[rows].to_numpy(),
    )
    found = retrieve.tables(scores, read.which, 6)
    partner = controls.shuffled(len(rows), 0)
    found["shuffled images"] = retrieve.tables(
        {k: v[partner] for k, v in scores.items()}, read.which, 6
    )[""]
    made = retrieve.chance(relevant, read.which, dataset="d")
    for control, table in found.items():
        made += retrieve.evaluate(
            table, relevant, read.which, patients, dataset="d", preset=PRESET, way=control
        )
    found.pop(retrieve.ADDED)
    keys = {
        control: {(r["subset"], r["metric"]) for r in made if r["control"] == control}
        for control in ("chance", *found)
    }
    assert {r["model"] for r in made if r["control"] == ""} == {"X-VL", "X-VL, contrast added"}
    assert all(of == keys[""] for of in keys.values()), "every row has its chance and its controls"
    mrr = {
        (r["subset"], r["control"]): r["value"]
        for r in made
        if r["metric"] == "mrr" and not r["model"].endswith("added")
    }
    for direction in retrieve.DIRECTIONS:
        assert mrr[direction, "contrast only"] > 0.8 > 0.7 > mrr[direction, "shuffled images"]
        assert (
            mrr[direction, ""] > mrr[direction, "chance"] and mrr[direction, "query ignored"] < 0.8
        )


def test_sentences_look_for_images(trained, data, words):
    described = {
        "Cardiomegaly": ("large heart.", "a large heart is seen."),
        "Edema": ("edema of the lungs.",),
    }
    described["Fracture"] = ("a fracture.",)
    rows = data.rows("test")
    sentences, finding, has = retrieve.queries(data, rows, described)
    assert len(sentences) == 4 and finding.tolist() == [
        "Cardiomegaly",
        "Cardiomegaly",
        "Edema",
        "Fracture",
    ]
    assert has.sum(1).tolist() == [10, 10, 10, 0] and has.shape == (4, len(rows))
    asked = scoring.distinct(words, sentences, PRESET)
    pictures = scoring.encode_images(trained, data, rows, CPU)
    scores = retrieve.score(trained, pictures, asked, 6, axes=(0,))
    assert (~np.isnan(scores["matching"])).sum(0).tolist() == [6] * 4, (
        "a sentence's shortlist alone"
    )
    people = data.index.patient_id.iloc[rows].to_numpy()
    table = retrieve.ways(scores, asked.which, 6, by_text=True)["contrast only"]
    made = retrieve.evaluate_queries(table, has, finding, people, dataset="d", preset=PRESET)
    found = {(r["subset"], r["metric"]): r for r in made}
    assert {s for s, _ in found} == {
        "sentence to image",
        "sentence to image, Cardiomegaly",
        "sentence to image, Edema",
    }
    guess = {
        (r["subset"], r["metric"]): r["value"]
        for r in retrieve.chance_of_queries(has, finding, dataset="d")
    }
    assert set(guess) == set(found)
    assert_close(guess["sentence to image", "precision@5"], 1 / 3, terms=30)
    assert found["sentence to image", "precision@5"]["value"] > 0.8
    every = "sentence to image", "precision@50"
    assert found[every]["value"] == guess[every] == 10 / 50, (
        "the pool has 30 images: all are among the first 50"
    )


def test_precision_of_resampled_candidates():
    rng = np.random.default_rng(0)
    scores, relevant = rng.random((3, 40)).round(1), rng.random((3, 40)) < 0.3
    for k in (1, 5, 60):
        plain = retrieval.precision(scores, relevant, k, np.ones((1, 40)))[0]
        each = retrieval.per_query(scores, relevant, ks=(k,))[f"precision@{k}"]
        assert_close(plain, each, terms=40)
    weights_of = next(metrics.resample_weights(np.arange(40), 6))
    for w, found in zip(
        weights_of, retrieval.precision(scores, relevant, 5, weights_of), strict=True
    ):
        drawn = np.repeat(np.arange(40), w.astype(int))  # the resample written out
        each = retrieval.per_query(scores[:, drawn], relevant[:, drawn], ks=(5,))["precision@5"]
        assert_close(found, each, terms=40)


def test_the_pool_is_drawn_once_for_a_seed(data):
    assert (
        retrieve.pool(data, "test", replace(PRESET, xvl_retrieve_pool=0))[0].tolist()
        == data.rows("test").tolist()
    )
    few = replace(PRESET, xvl_retrieve_pool=5)
    first, again = (retrieve.pool(data, "test", few)[0].tolist() for _ in range(2))
    assert first == again
    assert first != retrieve.pool(data, "test", replace(few, seed=1))[0].tolist()


# --- answers --------------------------------------------------------------------------------------
@pytest.fixture
def large(words):
    """A writer with large random weights, so that answers differ in likelihood."""
    torch.manual_seed(1)
    return xvl_writer.start_from(
        checkpoints.untrained(replace(PRESET, initial_range=0.3), words), reads=True
    ).eval()


def test_ranking_is_that_of_each_answer_alone(large, data, words):
    table, answers = (
        questions(data).head(7),
        ["yes", "no", "large heart", "large", "clear chest nothing acute"],
    )
    best, likely = vqa.ranked(large, words, data, table, answers, CPU)
    order = np.array([[answers.index(answer) for answer in row] for row in best])
    pictures = vqa.Pictures(data, table["row"].to_numpy(), PRESET, CPU)
    for n in range(7):
        alone = []
        with torch.no_grad():
            memory = large.remember(
                pictures.tokens(large.vision, [n]),
                text.encode(words, [table.question.iloc[n]], PRESET.max_tokens),
            )
            for answer in answers:
                alone.append(
                    large.log_likelihood(
                        memory, *text.encode(words, [answer], PRESET.max_tokens)
                    ).item()
                )
        assert_close(likely[n], np.sort(alone)[::-1].copy(), terms=CHAIN, dtype=torch.float32)
        assert_close(np.array(alone)[order[n]], likely[n], terms=CHAIN, dtype=torch.float32)


def test_the_first_token_chooses_who_is_ranked(large, data, words):
    large.preset = replace(PRESET, xvl_vqa_first=2)
    table, answers = questions(data).head(5), ["large", "yes", "large heart", "large edema"]
    best, likely = vqa.ranked(large, words, data, table, answers, CPU)
    order = np.array([[answers.index(answer) for answer in row] for row in best])
    assert order.shape == likely.shape == (5, 2) and (np.diff(likely, axis=1) <= 0).all()
    with torch.no_grad():
        ids, _ = text.encode(words, answers, PRESET.max_tokens)
        pictures = vqa.Pictures(data, table["row"].to_numpy(), PRESET, CPU)
        given = text.encode(words, table.question.tolist(), PRESET.max_tokens)
        memory = large.remember(pictures.tokens(large.vision, range(5)), given)
        first, _ = large.decoder.step(large.decoder.start(memory), None)
    for n in range(5):
        large_wins = (
            first[n, ids[0, 1]] > first[n, ids[1, 1]]
        )  # three answers begin with that token: the earlier two
        assert set(order[n]) == ({0, 2} if large_wins else {1, 0})


def test_answers_need_the_picture(trained, data, words, tmp_path):
    table, start = questions(data), trained[0]
    about = PRESET, data, table, start, words, CPU
    tuned, told = vqa.Answering(*about).fit(tmp_path / "a", Bar())
    blind, _ = vqa.Answering(*about, sees=False).fit(tmp_path / "b", Bar())
    answers = asked.vocabulary(table[table.split == "train"])
    test = table[table.split == "test"].reset_index(drop=True)
    right = {
        "own": vqa.predict(tuned, words, data, test, answers, CPU),
        "other": vqa.predict(
            tuned, words, data, test, answers, CPU, images_of=asked.swapped(test, 0)
        ),
        "blind": vqa.predict(blind, words, data, test, answers, CPU, sees=False),
        "majority": asked.majority(table[table.split == "train"], test),
    }
    right = {name: (given == test.answer.to_numpy()).mean() for name, given in right.items()}
    assert right["own"] > 0.9 > 0.8 > max(right["other"], right["blind"], right["majority"]), right
    assert told.startswith("fine-tuned ")


def test_without_an_image_nothing_of_it_is_read(data, words):
    """A dataset that has no images at all gives question-only answers."""
    bare = Fake(60)
    bare.images = None
    writer = xvl_writer.start_from(checkpoints.untrained(PRESET, words), reads=True)
    given, _ = vqa.ranked(writer, words, bare, questions(bare), ["yes", "no"], CPU, sees=False)
    assert len(given) == 120 and set(given[:, 0]) <= {"yes", "no"}


def test_held_out_images_choose_the_epoch(data, words):
    task = vqa.Answering(
        PRESET, data, questions(data), checkpoints.untrained(PRESET, words), words, CPU
    )
    assert not set(task.train.image_id) & set(task.valid.image_id) and len(task.valid)
    assert set(task.train.split) | set(task.valid.split) == {"train"}
