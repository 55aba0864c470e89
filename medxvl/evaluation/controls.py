"""Controls: what scores well without reading the image and the report as the model does."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def labels_of(dataset, rows, findings) -> np.ndarray:
    """(n, F) 1, 0 or NaN: not mentioned counts as negative, uncertain (-1) is left out of its
    finding.
    """
    table = (
        dataset.index.iloc[rows].reindex(columns=list(findings)).astype(float).fillna(0).to_numpy()
    )
    return np.where(table < 0, np.nan, table)


def shuffled(n: int, seed: int) -> np.ndarray:
    """(n,) whose picture each study gets instead of its own: the control that shows whether the
    picture matters.
    """
    order = np.random.default_rng([seed, 77]).permutation(n)
    partner = np.empty(n, dtype=int)
    partner[order] = np.roll(order, 1)
    return partner


STUDIES = 2000  # the gauge is defined on this many training studies


def linear_gauge(train_images, train_labels, images) -> np.ndarray:
    """Logistic regression on 32 x 32 pixels, one a finding; scores (n, F) of `images` (n, S, S)
    uint8.

    Learns from the first 2,000 training studies; labels (m, F) with NaN left out.
    """
    x, given = (_small(i) for i in (train_images[:STUDIES], images))
    scores = np.zeros((len(given), train_labels.shape[1]))
    for k, y in enumerate(train_labels[:STUDIES].T):
        known = ~np.isnan(y)
        if len(np.unique(y[known])) == 2:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
            scores[:, k] = model.fit(x[known], y[known]).decision_function(given)
    return scores


def _small(images) -> np.ndarray:
    x = torch.as_tensor(images)[:, None].float()
    return F.interpolate(x, size=(32, 32), mode="area").flatten(1).numpy()


def text_gauge(train_texts: list[str], train_y: np.ndarray, texts: list[str]) -> np.ndarray:
    """Logistic regression on words and word pairs of the report; scores (n, 15): what the text
    alone gives away.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    x, given = words.fit_transform(train_texts), words.transform(texts)
    scores = np.tile(train_y.mean(0), (len(texts), 1))
    for k, y in enumerate(train_y.T):
        if len(np.unique(y)) == 2:
            model = LogisticRegression(class_weight="balanced", max_iter=300).fit(x, y)
            scores[:, k] = model.predict_proba(given)[:, 1]
    return scores


def probe(train_features, train_labels, given) -> np.ndarray:
    """Logistic regression on frozen features, a finding at a time; scores (n, F). Labels (m, F),
    NaN left out.
    """
    scores = np.zeros((len(given), train_labels.shape[1]))
    for k, y in enumerate(train_labels.T):
        known = ~np.isnan(y)
        if len(np.unique(y[known])) == 2:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
            scores[:, k] = model.fit(train_features[known], y[known]).decision_function(given)
    return scores
