"""Controls: what scores well without reading the image and the report as the model does."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep.reports import labels


def labels_of(dataset, rows, findings) -> np.ndarray:
    """(n, F) 1, 0 or NaN: not mentioned counts as negative, uncertain (-1) is left out of its
    finding.
    """
    table = (
        dataset.index.iloc[rows].reindex(columns=list(findings)).astype(float).fillna(0).to_numpy()
    )
    return np.where(table < 0, np.nan, table)


def label_sets(dataset, rows) -> np.ndarray:
    """(n,) int: equal numbers where studies have the same positive CheXpert findings (none at all
    is a set, too).
    """
    positive = dataset.index.iloc[rows][labels.COLUMNS].to_numpy(dtype=float) == 1
    return np.unique(positive, axis=0, return_inverse=True)[1].reshape(-1)


def shuffled(n: int, seed: int) -> np.ndarray:
    """(n,) whose picture each study gets instead of its own: the control that shows whether the
    picture matters.
    """
    order = np.random.default_rng([seed, 77]).permutation(n)
    partner = np.empty(n, dtype=int)
    partner[order] = np.roll(order, 1)
    return partner


def by_class(model, train, labels, given, method="decision_function", otherwise=0.0) -> np.ndarray:
    """Scores (n, F) of `given` (n, ...) by a linear classifier for each class.

    `model`, of scikit-learn, is fitted to `train` (m, ...) and `labels` (m, F), 1 or 0, those that
    are NaN left out; `method` of it gives the scores. `otherwise` () or (F,): the score of a class
    whose labels are all the same.
    """
    scores = np.empty((given.shape[0], labels.shape[1]))
    scores[:] = otherwise
    for k, y in enumerate(labels.T):
        known = ~np.isnan(y)
        if len(np.unique(y[known])) == 2:
            found = getattr(model.fit(train[known], y[known]), method)(given)
            scores[:, k] = found if found.ndim == 1 else found[:, 1]
    return scores


def probe(train_features, train_labels, given, strength=0.01) -> np.ndarray:
    """Logistic regression on frozen features, a finding at a time; scores (n, F). Labels (m, F),
    NaN left out. `strength`: inverse of the regularization.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    return by_class(model, train_features, train_labels, given)


STUDIES = 2000  # the gauge is defined on this many training studies


def linear_gauge(train_images, train_labels, images) -> np.ndarray:
    """Logistic regression on 32 x 32 pixels, one a finding; scores (n, F) of `images` (n, S, S)
    uint8.

    Learns from the first 2,000 training studies; labels (m, F) with NaN left out.
    """
    seen = (torch.as_tensor(x)[:, None].float() for x in (train_images[:STUDIES], images))
    train, given = (F.interpolate(x, size=(32, 32), mode="area").flatten(1).numpy() for x in seen)
    return probe(train, train_labels[:STUDIES], given, strength=1e-3)


def text_gauge(train_texts: list[str], train_y: np.ndarray, texts: list[str]) -> np.ndarray:
    """Logistic regression on words and word pairs of the report; scores (n, 15): what the text
    alone gives away.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    train, given = words.fit_transform(train_texts), words.transform(texts)
    model = LogisticRegression(class_weight="balanced", max_iter=300)
    return by_class(model, train, train_y, given, "predict_proba", otherwise=train_y.mean(0))
