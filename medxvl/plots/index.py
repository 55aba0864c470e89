"""The index of the papers' figures, and drawing one of them from what a run left behind (rows,
predictions).

`figures/figures.csv` lists them all, also those that cannot be drawn and why. Nothing is computed
here that a row or a prediction does not say; notebook 91 and `figures/make.py` both call `figure`.
"""

import numpy as np
import pandas as pd

from medxvl.config import paths, sweeps
from medxvl.evaluation import published, radiologists
from medxvl.plots import results, roc

COLUMNS = ["id", "paper", "caption", "function", "inputs", "status"]
_MADE_BY = {
    "zero_shot": "22_xvl_zero_shot",
    "readers": "22_xvl_zero_shot",
    "reader_models": "22_xvl_zero_shot",
    "unseen_disease": "23_xvl_unseen_disease",
    "error_detection": "24_xvl_detect_errors",
    "classification": "12_medvill_classify",
    "retrieval": "13_medvill_retrieve",
    "retrieved_pairs": "13_medvill_retrieve",
    "vqa": "14_medvill_vqa",
    "vqa_examples": "14_medvill_vqa",
    "report_generation": "15_medvill_generate",
    "generated_reports": "15_medvill_generate",
    "word_maps": "11_medvill_pretrain",
    "head_maps": "20_xvl_vision_pretrain",
    "cross_attention": "29_xvl_attention",
    "finding_maps": "29_xvl_attention",
    "explanation": "29_xvl_attention",
    "error_correction": "25_xvl_correct_errors",
    "corrected_reports": "25_xvl_correct_errors",
    "xvl report_generation": "27_xvl_generate",
    "xvl_generated_reports": "27_xvl_generate",
    "xvl retrieval": "26_xvl_retrieve",
    "xvl_retrieved_pairs": "26_xvl_retrieve",
    "xvl vqa": "28_xvl_vqa",
    "xvl_vqa_examples": "28_xvl_vqa",
    "ablation": "30_xvl_ablation",
}


class MissingInput(FileNotFoundError):
    """A figure's rows or predictions are not there yet; the message names the notebook that makes
    them.
    """


def index():
    """figures/figures.csv as a DataFrame with the columns COLUMNS."""
    table = pd.read_csv(paths.FIGURE_INDEX, dtype=str, keep_default_na=False)
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise ValueError(f"{paths.FIGURE_INDEX}: column(s) missing: {', '.join(missing)}")
    return table


def figure(name, preset="demo"):
    """Draw the figure `name` of the index from the run `preset`; gives a matplotlib Figure.

    Raises ValueError for a name that is not in the index (lists the valid ones) or has no drawing
    (says why), and MissingInput when the run has not made its inputs.
    """
    table = index().set_index("id")
    if name not in table.index:
        raise ValueError(f"unknown figure {name!r}: expected one of {', '.join(table.index)}")
    if name not in DRAW:
        raise ValueError(f"{name} is not drawn: {table.status[name]}")
    draw, *about = DRAW[name]
    return draw(preset, *about)


def _missing(preset, what, task, paper=""):
    notebook = _MADE_BY.get(f"{paper} {task}") or _MADE_BY[task]
    return MissingInput(
        f"runs/{preset} has no {what}: run notebook {notebook} first "
        f"(./run_all.sh {preset} {notebook[:2]})"
    )


def _predictions(preset, task, needed=True):
    """Table runs/<preset>/predictions/<task>.csv; None when it is not there and not needed."""
    path = sweeps.run_folder(preset) / "predictions" / f"{task}.csv"
    if path.is_file() and path.stat().st_size:
        return pd.read_csv(
            path, dtype={"study_id": str, "patient_id": str, "reader": str, "model": str}
        )
    if needed:
        raise _missing(preset, f"predictions/{task}.csv", task)
    return None


def _rows(preset, task, paper=""):
    """Result rows of a task; of both papers' models where no paper is given."""
    from medxvl.evaluation import (
        results as evaluation_results,  # loads torch, which the radars do not need
    )

    rows = evaluation_results.results(preset)
    rows = rows[(rows.task == task) & (rows.paper.eq(paper) | (not paper))] if len(rows) else rows
    if rows.empty:
        raise _missing(preset, f"result rows of task {task}", task, paper)
    return rows


def _label(rows):
    """Data label of rows, the phantom's when any of them is from the phantom."""
    labels = sorted(rows.dataset.unique(), key=lambda d: not d.startswith("phantom"))
    return labels[0]


def _radar(preset, metric):
    return results.radar(published.load_paper(), metric)


def _roc_readers(preset):
    """Our curves stand beside the readers only where both saw the same kind of study: a model's
    curve on phantoms says nothing beside radiologists who read real radiographs."""
    points = _predictions(preset, "readers")
    theirs = _predictions(preset, "reader_models", needed=False)
    label = _label(_rows(preset, "readers"))
    ours, note = _predictions(preset, "zero_shot", needed=False), ""
    if ours is not None:
        of_ours = _label(_rows(preset, "zero_shot"))
        if of_ours == label:
            pass
        elif of_ours.startswith("phantom") and label.startswith("phantom"):
            note = f"curves on the test split of {of_ours}; n: studies"
        else:
            ours, note = (
                None,
                f"our model is not drawn: it was evaluated on {of_ours}, the readers on {label}",
            )
    if ours is not None:
        ours = ours[
            ours.model.str.startswith("X-VL")
            | ours.model.isin(["shuffled images", "supervised upper bound"])
        ]
    drawn = [] if theirs is None else [theirs]
    drawn += [] if ours is None else [ours]
    with_points = [f for f in radiologists.EIGHT if f in set(points.finding)]
    with_curves = [f for f in with_points if any(f in set(t.finding) for t in drawn)]
    return roc.roc_readers(
        ours,
        points,
        None if theirs is None else radiologists.curves(theirs),
        dataset=label,
        findings=with_curves or with_points,
        note=note,
    )


def _forest(preset):
    rows = _rows(preset, "zero_shot")
    rows = rows[(rows.metric == "auroc") & (rows.split == "test") & (rows.dataset == _label(rows))]
    if rows.empty:
        raise _missing(preset, "AUROC rows of task zero_shot on the test split", "zero_shot")
    return results.forest(rows)


def _covid(preset):
    rows = _rows(preset, "unseen_disease")
    return roc.roc_unseen(_predictions(preset, "unseen_disease"), rows, dataset=_label(rows))


def _error_detection(preset):
    """Without the untrained model, which the table has; of the fine-tuned one its scores alone."""
    from medxvl.plots import errors

    rows = _rows(preset, "error_detection")
    return errors.by_type(
        rows[
            (rows.control != "untrained")
            & ~(rows.model.str.endswith("(ours)") & (rows.control != ""))
        ]
    )


# What the figure of a task shows, of one paper's where they differ: a panel a metric, (title,
# metric, subset).
_PANELS = {
    "classification": (
        ("macro AUROC", "auroc_macro_defined", ""),
        ("micro AUROC", "auroc_micro", ""),
        ("micro F1", "f1_micro", ""),
    ),
    "retrieval": (
        ("MRR, image to report", "mrr", "image to report"),
        ("MRR, report to image", "mrr", "report to image"),
        ("hit@5, image to report", "hit@5", "image to report"),
    ),
    "vqa": (
        ("closed", "accuracy_closed", ""),
        ("open", "accuracy_open", ""),
        ("total", "accuracy_total", ""),
    ),
    "report_generation": (
        ("label F1 (positive)", "label_f1", ""),
        ("BLEU-4", "bleu4", ""),
        ("CIDEr", "cider", ""),
    ),
    "xvl retrieval": (
        ("R@5, image to report", "hit@5", "image to report, own partner"),
        ("R@5, report to image", "hit@5", "report to image, own partner"),
        ("P@10, sentence to image", "precision@10", "sentence to image"),
    ),
    "error_correction": (
        ("errors repaired", "repaired", "errors"),
        ("findings repaired", "repaired_findings", "errors"),
        ("clean, untouched", "untouched", "clean"),
    ),
}


def _scores(preset, task, paper):
    """Scores of a task with its controls; of MedViLL's other masks, where they were run with the
    same seed, the model alone.
    """
    from medxvl.evaluation import results as evaluation_results
    from medxvl.plots import medvill

    rows = _rows(preset, task, paper)
    rows = rows[rows.split == "test"]
    label = _label(rows)
    rows = rows[rows.dataset == label]
    if paper == "medvill":
        masks = evaluation_results.results(preset, every=True)
        masks = masks[(masks.task == task) & (masks.paper == paper) & (masks.control == "")]
        masks = masks[(masks.split == "test") & (masks.dataset == label)]
        masks = masks[(masks.seed == rows.seed.iloc[0]) & ~masks.model.isin(rows.model)]
        rows = pd.concat([rows, masks], ignore_index=True)
    return medvill.scores(rows, _PANELS.get(f"{paper} {task}") or _PANELS[task], label)


def _examples(preset, name, task, height, paper):
    from medxvl.plots import medvill

    items = medvill.load_examples(_kept(preset, name))
    return medvill.examples(items, _label(_rows(preset, task, paper)), height)


def _word_maps(preset, name):
    from medxvl.plots import medvill

    kept = _arrays(preset, name)
    told = str(kept["dataset"]), str(kept["note"]), kept.get("area")
    return medvill.word_maps(kept["image"], kept["words"].tolist(), kept["maps"], *told)


def _finding_maps(preset):
    from medxvl.plots import attention

    kept = _arrays(preset, "finding_maps")
    names, told = kept["findings"].tolist(), (str(kept["dataset"]), str(kept["note"]))
    return attention.finding_maps(kept["images"], kept["maps"], kept["areas"], names, *told)


def _explained(preset):
    """Scores of word maps against boxes, mean over the findings, with the controls."""
    from medxvl.plots import medvill

    rows = _rows(preset, "explanation")
    rows = rows[(rows.dataset == _label(rows)) & (rows.split == "test")]
    mean = next((s for s in rows.subset if s.startswith("mean of")), "")
    panels = [
        ("pointing game", "pointing", mean),
        ("IoU", "iou", mean),
        ("contrast-to-noise", "cnr", mean),
    ]
    return medvill.scores(rows, panels, _label(rows), f"{mean} findings; n: boxed findings")


def _head_maps(preset):
    import torch

    from medxvl.plots import vision

    kept = _arrays(preset, "head_maps")
    return vision.head_maps(
        torch.from_numpy(kept["images"]), torch.from_numpy(kept["maps"]), str(kept["dataset"])
    )


def _kept(preset, name):
    """Path of predictions/<name>.npz, which a notebook leaves where its data may be shown."""
    path = sweeps.run_folder(preset) / "predictions" / f"{name}.npz"
    if not path.is_file():
        raise _missing(
            preset, f"predictions/{name}.npz (it is made where the data may be shown)", name
        )
    return path


def _arrays(preset, name):
    with np.load(_kept(preset, name), allow_pickle=False) as kept:
        return dict(kept)


def _ablation(preset, kind):
    from medxvl.plots import ablation

    table = _predictions(preset, "ablation").fillna({"control": ""})
    return ablation.components(table) if kind == "components" else ablation.data_share(table)


def _schematic(preset, name):
    """A drawing of a model with the sizes of the preset paper, whatever the run."""
    from medxvl.config import presets
    from medxvl.plots import medvill, overview

    if name == "masks":
        return medvill.attention_masks()
    draw = {"overview": overview.overview, "architecture": medvill.architecture}[name]
    return draw(presets.load("paper"))


# A figure -> the function that draws it, and what else than the preset this takes.
DRAW = {
    "xvl-overview": (_schematic, "overview"),
    "xvl-radar-auroc": (_radar, "auroc"),
    "xvl-radar-f1": (_radar, "f1_max"),
    "xvl-roc-readers": (_roc_readers,),
    "xvl-zero-shot-table": (_forest,),
    "xvl-covid": (_covid,),
    "xvl-error-detection": (_error_detection,),
    "xvl-self-attention": (_head_maps,),
    "xvl-cross-attention": (_word_maps, "cross_attention"),
    "xvl-explanation": (_explained,),
    "xvl-finding-maps": (_finding_maps,),
    "xvl-error-correction": (_scores, "error_correction", "xvl"),
    "xvl-error-examples": (_examples, "corrected_reports", "error_correction", 1.5, "xvl"),
    "xvl-generation": (_scores, "report_generation", "xvl"),
    "xvl-generated-reports": (_examples, "xvl_generated_reports", "report_generation", 1.9, "xvl"),
    "xvl-retrieval": (_scores, "retrieval", "xvl"),
    "xvl-retrieved-pairs": (_examples, "xvl_retrieved_pairs", "retrieval", 1.3, "xvl"),
    "xvl-vqa": (_scores, "vqa", "xvl"),
    "xvl-vqa-examples": (_examples, "xvl_vqa_examples", "vqa", 0.9, "xvl"),
    "xvl-ablation": (_ablation, "components"),
    "xvl-data-efficiency": (_ablation, "data_share"),
    "medvill-attention": (_word_maps, "word_maps"),
    "medvill-architecture": (_schematic, "architecture"),
    "medvill-masks": (_schematic, "masks"),
    "medvill-classification": (_scores, "classification", "medvill"),
    "medvill-retrieval": (_scores, "retrieval", "medvill"),
    "medvill-vqa": (_scores, "vqa", "medvill"),
    "medvill-generation": (_scores, "report_generation", "medvill"),
    "medvill-retrieved-pairs": (_examples, "retrieved_pairs", "retrieval", 1.3, "medvill"),
    "medvill-generated-reports": (
        _examples,
        "generated_reports",
        "report_generation",
        1.9,
        "medvill",
    ),
    "medvill-vqa-examples": (_examples, "vqa_examples", "vqa", 0.9, "medvill"),
}
