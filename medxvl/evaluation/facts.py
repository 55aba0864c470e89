"""What the published values of the papers say of each other, in sentences."""

from medxvl.evaluation.published import load_paper
from medxvl.evaluation.radiologists import FIVE


def facts(paper=None, model="X-VL"):
    """What the published zero-shot values say about `model`, per metric (auroc, f1_max): `means`
    over the five pathologies (highest first), `leaders` (finding -> models with the highest value),
    `alone` (findings that `model` leads alone), `overall` (whether `model` alone has the highest
    mean)."""
    paper = load_paper() if paper is None else paper
    part = paper[
        (paper.paper == "xvl")
        & (paper.task == "zero_shot")
        & paper.subset.isin(FIVE)
        & paper.value.notna()
    ]
    result = {}
    for metric, rows in part.groupby("metric"):
        wide = (
            rows.pivot(index="model", columns="subset", values="value")
            .reindex(columns=FIVE)
            .dropna()
        )
        means = wide.mean(axis=1).sort_values(ascending=False)
        leaders = {f: wide.index[wide[f] == wide[f].max()].tolist() for f in FIVE}
        result[metric] = {
            "means": means,
            "leaders": leaders,
            "alone": [f for f in FIVE if leaders[f] == [model]],
            "overall": means.index[means == means.max()].tolist() == [model],
            "status": ", ".join(rows.status.unique()),
        }
    return result


def fact_sentence(metric, fact, model="X-VL"):
    """One metric's facts (a value of `facts`) in words."""
    name = {"auroc": "AUROC", "f1_max": "maximum F1 (over the test PR curve)"}.get(metric, metric)
    top = ", ".join(f"{m} {v:.4f}" for m, v in fact["means"].head(3).items())
    lead = (
        f"leads alone on {' and '.join(fact['alone'])}"
        if fact["alone"]
        else "leads alone on no pathology"
    )
    overall = "and has the highest mean" if fact["overall"] else "no overall win"
    return f"{name}, highest means over the five pathologies: {top}. {model} {lead}; {overall}."


def facts_text(paper=None, model="X-VL"):
    """The facts in words, one line a metric: computed from the published values, to stand beside
    the radar.
    """
    return [
        f"{fact_sentence(metric, fact, model)} Published values, status {fact['status']}."
        for metric, fact in facts(paper, model).items()
    ]
