"""VQA-RAD: the published counts on the real file, odd answers and types, faults of single
questions.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from data_prep_trees import assert_checked, encoded, picture, prepare
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import DataError
from data_prep.datasets import vqa_rad
from data_prep.reading.raw import plain


def question(qid, image="synpic1.jpg", **changes):
    return {
        "qid": qid,
        "image_name": image,
        "question": "Is it large?",
        "answer": "Yes",
        "answer_type": "CLOSED",
        "question_type": "SIZE",
        "image_organ": "CHEST",
        "phrase_type": "freeform",
    } | changes


def tree(root, entries, images=()):
    (root / "VQA_RAD Image Folder").mkdir(parents=True)
    (root / "VQA_RAD Dataset Public.json").write_text(json.dumps(entries))
    for k, name in enumerate(images):
        (root / "VQA_RAD Image Folder" / name).write_bytes(encoded(picture(k), "JPEG"))
    return root


def questions(folder):
    return pd.read_csv(folder / "questions.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    out = tmp_path_factory.mktemp("vqa") / "out"
    return (*prepare("vqa_rad", shared / "data" / "vqa_rad", out), questions(out))


def test_real_counts(real):
    """MedViLL: 1,797 / 451 questions; test closed and open 272 / 179, on chest images 116 / 58."""
    index, card, rejects, asked = real
    test = asked[asked["split"] == "test"]
    assert asked["split"].value_counts().to_dict() == {"train": 1797, "test": 451} and not rejects
    assert test["answer_type"].value_counts().to_dict() == {"CLOSED": 272, "OPEN": 179}
    chest = test[test["organ"] == "CHEST"]["answer_type"].value_counts().to_dict()
    assert chest == {"CLOSED": 116, "OPEN": 58}
    assert (
        all(row["expected"] == row["found"] for row in card["expected"])
        and len(card["expected"]) == 6
    )
    assert (
        len(index) == 314
        and card["images"] == 0
        and any("text only" in note for note in card["notes"])
    )


def test_real_overlap_is_told(real):
    index, card, _, asked = real
    by_image = asked.groupby("image_id")["split"].nunique()
    assert (by_image == 2).sum() == 202 and any(
        note.startswith("202 of 314 images") for note in card["notes"]
    )
    counts = index.set_index("image_id")[["train_questions", "test_questions"]].astype(int)
    assert counts.sum().tolist() == [1797, 451]
    assert set(index["image_id"][index["split"] == "train"]) == set(by_image.index) - set(
        asked["image_id"][asked["split"] == "test"]
    )


def test_real_text_is_kept(real, shared):
    raw = json.loads((shared / "data" / "vqa_rad" / "vqa_rad_original_set.json").read_text())
    asked = real[3].set_index("qid")
    for entry in raw:
        row = asked.loc[str(entry["qid"])]
        assert (
            row["answer"] == plain(pd.Series([entry["answer"]], dtype=object))[0] and row["answer"]
        )
        assert row["question"] == plain(pd.Series([entry["question"]]))[0]
    assert (
        asked.loc[[str(e["qid"]) for e in raw if isinstance(e["answer"], int)], "answer"]
        .isin(["2", "4", "12"])
        .all()
    )


def test_images_and_odd_answers(tmp_path):
    entries = [
        question(1, answer=4),
        question("2", answer_type="CLOSED ", phrase_type="test_freeform", answer="NA"),
        question(
            3,
            "synpic2.jpg",
            answer='=1+1, "big"\nreally',
            answer_type="OPEN",
            phrase_type="test_para",
        ),
        question(4, "synpic3.jpg", phrase_type="para", image_organ="HEAD"),
    ]
    raw = tree(
        tmp_path / "raw", entries, ["synpic1.jpg", "synpic2.jpg", "synpic3.jpg", "synpic9.jpg"]
    )
    index, card, rejects = prepare("vqa_rad", raw, tmp_path / "out")
    asked = questions(tmp_path / "out")
    assert asked["answer"].tolist() == ["4", "NA", '=1+1, "big" really', "Yes"]
    assert asked["answer_type"].tolist() == ["CLOSED", "CLOSED", "OPEN", "CLOSED"]
    assert asked["split"].tolist() == ["train", "test", "test", "train"] and card["images"] == 3
    assert index["split"].tolist() == ["test", "test", "train"] and index["organ"].tolist() == [
        "CHEST",
        "CHEST",
        "HEAD",
    ]
    assert rejects == {"VQA_RAD Image Folder/synpic9.jpg": "image of no question that is used"}
    assert_checked(tmp_path / "out")


def test_the_file_itself(tmp_path):
    raw = tree(
        tmp_path / "raw", [question(1), question(2, "synpic2.jpg")], ["synpic1.jpg", "synpic2.jpg"]
    )
    index, card, _ = prepare("vqa_rad", raw / "VQA_RAD Dataset Public.json", tmp_path / "out")
    assert len(index) == 2 and card["images"] == 2


def test_faults_of_questions(tmp_path):
    entries = [
        *(question(k) for k in range(40)),
        question(3, answer="again"),
        question(50, answer=""),
        question(51, answer=["yes"]),
        question(52, phrase_type="rephrased"),
        question(53, answer_type="MAYBE"),
        question(54, "../synpic1.jpg"),
        question(55, "absent.jpg"),
        "not an object",
        {k: v for k, v in question(56).items() if k != "image_name"},
        question(57, question="\ud800?"),
    ]
    raw = tree(tmp_path / "raw", entries, ["synpic1.jpg"])
    index, _, rejects = prepare("vqa_rad", raw, tmp_path / "out", settings={"max_reject_share": 1})
    assert rejects == {
        "entry 40, qid 3": "qid named before: first row used",
        "entry 41, qid 50": "answer is empty or not a text",
        "entry 42, qid 51": "answer is empty or not a text",
        "entry 43, qid 52": "phrase_type is 'rephrased', expected freeform, para, "
        "test_freeform, test_para",
        "entry 44, qid 53": "answer_type is 'MAYBE', expected CLOSED or OPEN",
        "../synpic1.jpg": "path leaves the raw folder",
        "absent.jpg": "file not in the folder",
        "entry 47": "not an object: str",
        "entry 48, qid 56": "image_name is empty or not a text",
    }
    asked = questions(tmp_path / "out")
    assert set(asked["image_id"]) == {"synpic1.jpg"} and len(asked) == 41 and len(index) == 1
    assert asked.set_index("qid").loc["57", "question"] == "??"


def test_faults_of_the_dataset(tmp_path):
    raw = tree(tmp_path / "raw", [question(1)])
    path = raw / "VQA_RAD Dataset Public.json"
    for text, message in (
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("{}", "expected a list"),
        ("[]", "expected a list"),
        ('[{"a": 1}]', "expected questions with qid, image_name"),
        ("[1]", "expected questions with"),
        (json.dumps([question(1, answer="")]), "none is left"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            prepare("vqa_rad", raw, tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match="expected vqa_rad"):
        prepare("vqa_rad", raw, tmp_path / "out")


def test_limit(tmp_path):
    raw = tree(tmp_path / "raw", [question(k, f"synpic{k}.jpg") for k in range(9)])
    index, _, rejects = prepare("vqa_rad", raw, tmp_path / "out", limit=2)
    assert len(index) == 2 and len(questions(tmp_path / "out")) == 2 and len(rejects) == 7


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.text(), st.none(), st.integers(), st.floats(), st.characters(categories=["Cs"])
        ),
        max_size=5,
    )
)
def test_plain_cells(cells):
    """Whatever is in a cell: one line of text that can be written as UTF-8, and nothing more to do
    the second time.
    """
    once = plain(pd.Series(cells, dtype=object))
    for text in once:
        assert text == text.strip() and len(text.splitlines()) <= 1
        text.encode("utf-8")
    assert plain(once).tolist() == once.tolist()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(JSON | st.fixed_dictionaries(dict.fromkeys(question(1), JSON)), max_size=4))
def test_any_json_is_a_table_or_an_error(entries):
    with TemporaryDirectory() as place:
        path = Path(place) / "VQA_RAD.json"
        path.write_text(json.dumps([question(1), *entries]))
        table = vqa_rad.read(path, vqa_rad.SETTINGS)
    assert len(table.rows) >= 1 and len(table.extra["questions.csv"]) >= 1
    assert len(table.extra["questions.csv"]) + len(table.rejects) == len(entries) + 1


def test_a_folder_with_the_name_of_the_file(tmp_path):
    (tmp_path / "raw" / "VQA_RAD x.json").mkdir(parents=True)
    with pytest.raises(DataError, match="expected a file VQA_RAD.*; found a folder of that name"):
        prepare("vqa_rad", tmp_path / "raw", tmp_path / "out")
