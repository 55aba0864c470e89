"""Made-up results of all notebooks, for tests of the figures."""

import matplotlib
import numpy as np
import pandas as pd

from medxvl.evaluation import metrics, radiologists
from medxvl.plots import index, medvill

PHANTOM = "phantom:mimic_cxr"
MODELS = {
    "X-VL (ITM)": "",
    "X-VL (ITA)": "",
    "shuffled images": "shuffled images",
    "untrained": "untrained",
    "supervised linear 32x32": "supervised linear 32x32",
    "supervised upper bound": "supervised upper bound",
}


def predict(findings, n=60, seed=0, models=MODELS):
    """Long prediction table; better scores for later models."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, model in enumerate(models):
        for k, finding in enumerate(findings):
            label = (np.arange(n) % (k + 3) == 0).astype(int)
            ids = [f"s{j:03d}" for j in range(n)]
            parts.append(
                pd.DataFrame(
                    {
                        "study_id": ids,
                        "patient_id": ids,
                        "split": "test",
                        "finding": finding,
                        "label": label,
                        "score": rng.normal(size=n) + 0.4 * i * label,
                        "model": model,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def result_rows(predictions, task, dataset):
    rows = []
    for (model, finding), part in predictions.groupby(["model", "finding"], sort=False):
        value = metrics.auroc(part.label, part.score)
        rows.append(
            {
                "run": "r",
                "paper": "xvl",
                "task": task,
                "dataset": dataset,
                "split": "test",
                "subset": finding,
                "model": model if model.startswith("X-VL") else "X-VL (ITM)",
                "metric": "auroc",
                "value": value,
                "ci_low": value - 0.05,
                "ci_high": value + 0.05,
                "n": len(part),
                "control": MODELS.get(model, ""),
                "seed": 0,
                "preset": "demo",
                "checkpoint": "",
                "manifest": "",
            }
        )
    return pd.DataFrame(rows)


def reader_points(findings, n=60):
    rows = [
        {
            "finding": f,
            "reader": r,
            "sensitivity": 0.6 + 0.1 * i,
            "specificity": 0.9 - 0.1 * i,
            "f1": 0.5,
            "mcc": 0.4,
            "n": n,
            "positives": 20,
        }
        for f in findings
        for i, r in enumerate(["bc4", "bc6", "bc8"])
    ]
    return pd.DataFrame(rows)


def write_ablation(folder):
    """What notebook 30 keeps: two seeds of the whole model, of a share of the data and of one
    ablation.
    """
    rows = [
        {
            "label": label,
            "share": share,
            "head": head,
            "seed": seed,
            "control": control,
            "value": value + 0.01 * seed,
            "n": 60,
            "subset": "mean of 8",
            "dataset": PHANTOM,
        }
        for label, share, value in (
            ("whole", 1.0, 0.8),
            ("whole", 0.1, 0.6),
            ("no self-supervised start", 1.0, 0.7),
        )
        for head in ("ITM", "ITA")
        for seed in (0, 1)
        for control in ("", "shuffled images")
    ]
    pd.DataFrame(rows).to_csv(folder / "predictions" / "ablation.csv", index=False)


def write_run(folder):
    """runs/demo with rows and predictions as the notebooks leave them."""
    (folder / "rows").mkdir(parents=True)
    (folder / "predictions").mkdir()
    write_ablation(folder)
    zero, unseen = predict(radiologists.EIGHT), predict(["COVID-19"], seed=1)
    zero.to_csv(folder / "predictions" / "zero_shot.csv", index=False)
    unseen.to_csv(folder / "predictions" / "unseen_disease.csv", index=False)
    reader_points(radiologists.EIGHT).to_csv(folder / "predictions" / "readers.csv", index=False)
    write_rows(folder, "phantom:chexpert_test", zero)
    result_rows(unseen, "unseen_disease", "phantom:covid_cxr").to_csv(
        folder / "rows" / "23_xvl_unseen_disease.csv", index=False
    )
    write_errors(folder)
    write_medvill(folder)
    return folder


def write_errors(folder):
    """What notebook 24 leaves for its figure."""
    rows = [
        {
            "run": "r",
            "paper": "xvl",
            "task": "error_detection",
            "dataset": dataset,
            "split": split,
            "subset": subset,
            "metric": "auroc",
            "model": model,
            "value": 0.6,
            "ci_low": 0.5,
            "ci_high": 0.7,
            "n": 60,
            "control": control,
            "seed": 0,
            "preset": "demo",
            "checkpoint": "",
            "manifest": "",
        }
        for dataset, split in ((PHANTOM, "test"), ("phantom:openi", "all"))
        for subset in ("balanced, location", "balanced", "5 %, location", "5 %")
        for model, control in (
            ("X-VL (ITM)", ""),
            ("X-VL (ITM)", "shuffled images"),
            ("words of the report", "words of the report"),
            ("X-VL fine-tuned on errors (ours)", ""),
            ("chance", "chance"),
        )
    ]
    pd.DataFrame(rows).to_csv(folder / "rows" / "24_xvl_detect_errors.csv", index=False)


def write_medvill(folder):
    """What notebooks 11 to 15, 20 and 25 to 28 leave for the figures."""
    for name, panels in index._PANELS.items():
        task, book = name.removeprefix("xvl "), index._MADE_BY[name]
        rows = [
            {
                "run": "r",
                "paper": book[3:].split("_")[0],
                "task": task,
                "dataset": PHANTOM,
                "split": "test",
                "subset": subset,
                "metric": metric,
                "model": "MedViLL (BAR)",
                "value": 0.6 - 0.2 * (control != ""),
                "ci_low": 0.3,
                "ci_high": 0.7,
                "n": 60,
                "control": control,
                "seed": 0,
                "preset": "demo",
                "checkpoint": "",
                "manifest": "",
            }
            for _, metric, subset in panels
            for control in ("", "shuffled images")
        ]
        pd.DataFrame(rows).to_csv(folder / "rows" / f"{book}.csv", index=False)
        for other in [
            o for o in index._MADE_BY if o == f"xvl {task}" and o not in index._PANELS
        ]:  # the same panels
            pd.DataFrame(rows).assign(paper="xvl").to_csv(
                folder / "rows" / f"{index._MADE_BY[other]}.csv", index=False
            )
    items = [
        {"image": np.zeros((8, 8), np.uint8), "lines": [["costs $5", ""], ["n = 60", "bad"]]}
    ] * 2
    for name in (
        "retrieved_pairs",
        "generated_reports",
        "vqa_examples",
        "xvl_retrieved_pairs",
        "corrected_reports",
        "xvl_generated_reports",
        "xvl_vqa_examples",
    ):
        medvill.save_examples(folder / "predictions" / f"{name}.npz", items)
    maps, image = np.ones((1, 2, 2), np.float32), np.zeros((8, 8), np.uint8)
    np.savez(
        folder / "predictions" / "word_maps.npz",
        image=image,
        words=["edema"],
        maps=maps,
        dataset=PHANTOM,
        note="n = 60",
    )
    np.savez(
        folder / "predictions" / "head_maps.npz",
        images=image[None],
        maps=maps.reshape(1, 1, 4),
        dataset=PHANTOM,
    )
    write_explained(folder, image, maps)


def write_explained(folder, image, maps):
    """What notebook 29 leaves for the figures."""
    area, told = np.eye(8, dtype=bool), {"dataset": PHANTOM, "note": "n = 60"}
    np.savez(
        folder / "predictions" / "cross_attention.npz",
        image=image,
        words=["edema"],
        maps=maps,
        area=area,
        **told,
    )
    np.savez(
        folder / "predictions" / "finding_maps.npz",
        images=image[None],
        maps=maps[:1],
        areas=area[None],
        findings=["Edema"],
        **told,
    )
    rows = [
        {
            "run": "r",
            "paper": "xvl",
            "task": "explanation",
            "dataset": PHANTOM,
            "split": "test",
            "subset": "mean of 8",
            "model": "X-VL (word maps)",
            "metric": metric,
            "value": 0.4 - 0.2 * (control != ""),
            "ci_low": 0.1,
            "ci_high": 0.5,
            "n": 60,
            "control": control,
            "seed": 0,
            "preset": "demo",
            "checkpoint": "",
            "manifest": "",
        }
        for metric in ("pointing", "iou", "cnr")
        for control in ("", "shuffled images")
    ]
    pd.DataFrame(rows).to_csv(folder / "rows" / "29_xvl_attention.csv", index=False)


def write_rows(folder, readers_label, zero):
    rows = result_rows(zero, "zero_shot", PHANTOM)
    one = rows.iloc[:1].assign(task="readers", dataset=readers_label, control="reader", metric="f1")
    pd.concat([rows, one]).to_csv(folder / "rows" / "22_xvl_zero_shot.csv", index=False)


def words(fig):
    """All text of a figure."""
    fig.canvas.draw()
    found = [t.get_text() for t in fig.findobj(matplotlib.text.Text)]
    return " ".join(" ".join(found).split())
