"""Questions and answers on images: reading them, the candidate answers, the scores, and baselines
that see no image.

A prepared dataset has them in questions.csv, a row a question with its own split
(data_prep.datasets.vqa_rad). Shared by every model that answers.
"""

import numpy as np
import pandas as pd

from medxvl.data import text
from medxvl.data.dataset import Dataset
from medxvl.evaluation import metrics
from medxvl.evaluation.rows import result_row

FORMS = ("open", "closed")
ORGANS = {"CHEST": "chest", "HEAD": "head", "ABD": "abdomen"}
# share of training images whose questions choose the epoch: VQA-RAD has no validation split
HELD_OUT = 0.15
COLUMNS = [
    "qid",
    "image_id",
    "row",
    "question",
    "answer",
    "form",
    "organ",
    "kind",
    "split",
    "unseen",
]


def read(dataset: Dataset) -> pd.DataFrame:
    """COLUMNS, a row a question: `row` of its image in the index, question and answer cleaned as in
    the release, form open or closed, organ, kind (question type), `unseen`: whether no training
    question is about its image.

    Raises FileNotFoundError where the dataset has no questions.
    """
    path = dataset.folder / "questions.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"{dataset.label}: expected questions ({path}); the dataset vqa_rad has them"
        )
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    place = {name: k for k, name in enumerate(dataset.index["image_id"])}
    trained = set(table.loc[table["split"] == "train", "image_id"])
    return pd.DataFrame(
        {
            "qid": table["qid"],
            "image_id": table["image_id"],
            "row": table["image_id"].map(place).to_numpy(),
            "question": table["question"].map(text.clean_question),
            "answer": table["answer"].map(clean_answer),
            "form": table["answer_type"].str.strip().str.lower(),
            "organ": table["organ"].map(ORGANS).fillna("other"),
            "kind": table["question_type"],
            "split": table["split"],
            "unseen": ~table["image_id"].isin(trained),
        }
    )[COLUMNS]


def clean_answer(answer: str) -> str:
    """One wording for answers that mean the same: lower case, no punctuation, the release's
    synonyms.
    """
    return text.unify_answer(" ".join(text.clean_question(answer).split()))


def vocabulary(train: pd.DataFrame) -> list[str]:
    """The candidate answers: those of the training questions, most frequent first, then by the
    alphabet.
    """
    counts = train["answer"].value_counts()
    return sorted(counts.index, key=lambda answer: (-counts[answer], answer))


def hold_out(train: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training questions without those on HELD_OUT of the images, and those."""
    images = train["image_id"].unique()
    chosen = np.random.default_rng([seed, 83]).permutation(images)[: int(HELD_OUT * len(images))]
    held = train["image_id"].isin(chosen)
    return train[~held].reset_index(drop=True), train[held]


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Questions by split and organ (and all): total, closed, open, and whose answer is no training
    answer.
    """
    known, rows = set(table.loc[table["split"] == "train", "answer"]), []
    for split in ("train", "valid", "test"):
        for organ in ("all", *dict.fromkeys(table["organ"])):
            part = table[(table["split"] == split) & ((table["organ"] == organ) | (organ == "all"))]
            if len(part):
                rows.append(
                    {
                        "split": split,
                        "organ": organ,
                        "questions": len(part),
                        "closed": int((part["form"] == "closed").sum()),
                        "open": int((part["form"] == "open").sum()),
                        "images": part["image_id"].nunique(),
                        "answer not among the training's": int((~part["answer"].isin(known)).sum()),
                    }
                )
    return pd.DataFrame(rows)


def majority(train: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """(n,) the most frequent training answer of each question's form, open or closed."""
    best = {form: vocabulary(part)[0] for form, part in train.groupby("form")}
    overall = vocabulary(train)[0]
    return np.array([best.get(form, overall) for form in table["form"]], dtype=object)


def from_words(train: pd.DataFrame, table: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """(n,) answers by logistic regression on the words of the question alone.

    Its strength is chosen by cross-validation over training images; no test question plays a part.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline

    if train["answer"].nunique() < 2:
        return np.full(len(table), train["answer"].iloc[0], dtype=object)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=200)
    )
    groups = train["image_id"]
    folds = min(3, groups.nunique())
    if folds > 1:
        split = GroupKFold(folds, shuffle=True, random_state=seed)
        model = GridSearchCV(
            model,
            {"logisticregression__C": [1.0, 10.0, 100.0]},
            cv=split,
            scoring="accuracy",
            error_score=0.0,
        )
        return model.fit(train["question"], train["answer"], groups=groups).predict(
            table["question"]
        )
    return model.fit(train["question"], train["answer"]).predict(table["question"])


def subsets(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which questions belong to each subset, by name: all (""), each organ, and images that
    training never asked about.
    """
    found = {"": np.ones(len(table), bool)}
    found |= {
        organ: (table["organ"] == organ).to_numpy() for organ in dict.fromkeys(table["organ"])
    }
    if 0 < table["unseen"].sum() < len(table):
        found["images without a training question"] = table["unseen"].to_numpy()
    return found


def evaluate(
    table: pd.DataFrame,
    given,
    *,
    n_resamples=1000,
    seed=0,
    **about,
) -> list[dict]:
    """Rows of one way to answer: accuracy open, closed and total in every subset, with 95 %
    intervals over images.

    given (n,) answers; right is the very wording of the (cleaned) answer. A subset without
    questions of a form has no such row. `about`: see `medxvl.evaluation.rows`.
    """
    about = {"task": "vqa"} | about
    right = (table["answer"].to_numpy() == np.asarray(given, dtype=object)).astype(float)
    groups = table["image_id"].to_numpy()
    weights = np.concatenate(list(metrics.resample_weights(groups, n_resamples, seed)))
    rows = []
    for subset, members in subsets(table).items():
        for metric, form in (
            ("accuracy_total", None),
            *((f"accuracy_{form}", form) for form in FORMS),
        ):
            chosen = members & ((table["form"] == form).to_numpy() if form else True)
            if not chosen.any():
                continue
            count = weights @ chosen
            drawn = np.divide(
                weights @ (right * chosen),
                count,
                out=np.full(len(weights), np.nan),
                where=count > 0,
            )
            value, n = right[chosen].mean(), chosen.sum()
            rows.append(
                result_row(about, metric, value, drawn, subset=subset, n=n, keep_draws=True)
            )
    return rows


def swapped(table: pd.DataFrame, seed: int) -> np.ndarray:
    """(n,) another image's row for each question, of the same organ: the control that shows whether
    the picture matters.

    An organ with a single image keeps it.
    """
    rng, rows = np.random.default_rng([seed, 79]), table["row"].to_numpy().copy()
    for _, part in table.groupby("organ"):
        images = part["row"].unique()
        order = rng.permutation(images)
        other = dict(zip(order, np.roll(order, 1), strict=True))
        rows[table.index.get_indexer(part.index)] = [other[row] for row in part["row"]]
    return rows


def examples(
    dataset: Dataset, table: pd.DataFrame, given, shown, seed: int, most: int = 4, each: int = 4
) -> list[dict]:
    """A few images with questions, true and given answers, for plots_medvill.examples; none where
    nothing may be shown or given.
    """
    if given is None:
        return []
    allowed = [
        image
        for image, row in table.drop_duplicates("image_id")[["image_id", "row"]].itertuples(
            index=False
        )
        if shown[row]
    ]
    items = []
    for image in np.random.default_rng([seed, 29]).permutation(allowed)[:most]:
        lines = []
        for k in np.flatnonzero((table["image_id"] == image).to_numpy())[:each]:
            asked, answer = table["question"].iloc[k], table["answer"].iloc[k]
            right = given[k] == answer
            lines.append(
                [
                    f"{asked}  answer: {answer}" + ("" if right else f", given: {given[k]}"),
                    "good" if right else "bad",
                ]
            )
        row = int(table.loc[table["image_id"] == image, "row"].iloc[0])
        items.append({"image": dataset.images([row])[0], "lines": lines})
    return items
