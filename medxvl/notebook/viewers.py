"""Viewers for JupyterLab: a word's map on the image, a report checked against its image, retrieval.

Each function gives an ipywidgets box; `shown` displays it. In a notebook that runs without a
reader, and in its web page, the box is replaced by what it would show first, as plain HTML: there,
too, a word's map appears under the mouse. The model's part is in medxvl.notebook.browse.
"""

import base64
import hashlib
import io
import os

import ipywidgets
import matplotlib
import numpy as np
import torch
from IPython.display import display
from PIL import Image

from medxvl.notebook import templates
from medxvl.training.progress import HEADLESS
from medxvl.xvl import word_maps


def shown(viewer, fallback: str) -> None:
    """Display a viewer; where there is nobody to use it, and in web pages, its `fallback`
    (HTML).
    """
    bundle = {
        "text/html": fallback,
        "text/plain": "an interactive viewer: open this notebook in JupyterLab",
    }
    if not os.environ.get(HEADLESS):
        bundle |= {k: v for k, v in viewer._repr_mimebundle_().items() if "widget" in k}
    display(bundle, raw=True)


# --- pictures and pages, without a browser --------------------------------------------------------
def picture(pixels: np.ndarray) -> str:
    """Data address of a PNG of pixels (S, S) grey or (S, S, 4), uint8."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def overlay(map_: np.ndarray, size: int) -> np.ndarray:
    """A map (g, g) as colours (size, size, 4) to lay over the image: the brighter the less
    see-through; all clear if empty.
    """
    large = word_maps.upsample(torch.from_numpy(np.asarray(map_, np.float32))[None], size)[
        0
    ].numpy()
    scaled = large / large.max() if large.max() > 0 else np.zeros_like(large)
    colours = matplotlib.colormaps["inferno"](scaled)
    colours[..., 3] = 0.75 * scaled
    return (colours * 255).round().astype(np.uint8)


def words_of(collection, study: int, sentence: str) -> str:
    """HTML: a study's image (S, S) and a button for each word of a sentence; the word's map lies
    over the image while it is pointed at or chosen.
    """
    if not sentence.strip():
        return templates.VIEWERS.asked_for("sentence")
    words, maps, probability = collection.maps(study, sentence)
    view = collection.views[study]
    digest = hashlib.sha256(view.tobytes() + maps.tobytes() + repr(words).encode())
    pictures = [picture(overlay(map_, len(view))) for map_ in maps]
    return templates.VIEWERS.word_maps(
        key=f"m{digest.hexdigest()[:10]}",
        image=picture(view),
        words=list(zip(words, pictures, strict=True)),
        chosen=int(maps.reshape(len(maps), -1).max(axis=1).argmax()) if len(maps) else -1,
        note=f"{_source(collection)} Match: {probability:.1%}.",
    )


def check_of(collection, study: int, report: str) -> str:
    """HTML: a study's image, how likely image and report match, and the words of the report: the
    redder, the better the match without them.
    """
    if not report.strip():
        return templates.VIEWERS.asked_for("report")
    probability, words, rises, offers = collection.check(study, report)
    worst = max(float(np.max(rises, initial=0)), 1.0)  # a logit: smaller rises stay pale
    marks = []
    for word, rise, offer in zip(words, rises, offers, strict=True):
        told = f"logit {rise:+.2f} without it"
        if offer and offer != word:
            told += f"; the model would write: {offer}"
        marks.append((word, told, f"{0.75 * max(0.0, rise) / worst:.2f}"))
    return templates.VIEWERS.checked_report(
        picture(collection.views[study]), f"{probability:.1%}", marks, _source(collection)
    )


def images_of(collection, sentence: str) -> str:
    """HTML: the images that fit a sentence, in a row."""
    if not sentence.strip():
        return templates.VIEWERS.asked_for("sentence")
    best, logits = collection.find_images(sentence)
    figures = [
        (picture(collection.views[k]), f"{collection.titles[k]}, logit {logit:.2f}: "
                                       f"{collection.reports[k]}")
        for k, logit in zip(best, logits, strict=True)
    ]  # fmt: skip
    note = f"{_source(collection)} Best match first, of {len(collection)} studies."
    return templates.VIEWERS.found(figures, note)


def reports_of(collection, study: int) -> str:
    """HTML: a study's image, then the reports that fit it, with the images they were written
    for.
    """
    best, logits = collection.find_reports(study)
    figures = []
    for k, logit in zip(best, logits, strict=True):
        own = "OWN REPORT, " if k == study else ""
        caption = f"{own}logit {logit:.2f}: {collection.reports[k]}"
        figures.append((picture(collection.views[k]), caption))
    asked = [(picture(collection.views[study]), f"asked: {collection.titles[study]}")]
    note = f"{_source(collection)} Each report with the image that it belongs to."
    return templates.VIEWERS.found(asked, "") + templates.VIEWERS.found(figures, note)


def _source(collection) -> str:
    """What the pictures are, for the line below them."""
    if collection.label.startswith("phantom"):
        return "Synthetic phantom, not patients."
    return f"Data: {collection.label}."


# --- boxes of widgets -----------------------------------------------------------------------------
def _studies(collection) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(
        options=[(title, k) for k, title in enumerate(collection.titles)],
        value=0,
        description="study",
    )


def _text(value: str, rows: int = 3) -> ipywidgets.Textarea:
    return ipywidgets.Textarea(
        value=value,
        rows=rows,
        continuous_update=False,
        layout={"width": "46rem", "max_width": "100%"},
    )


def _reader(collection, page, label: str) -> ipywidgets.VBox:
    """A study, a text that starts as its report, a button, and the page that `page(collection,
    study, text)` makes of them.
    """
    study, words, again = (
        _studies(collection),
        _text(collection.reports[0]),
        ipywidgets.Button(description=label),
    )
    answer = ipywidgets.HTML(page(collection, 0, words.value))

    def renew(*_):
        answer.value = page(collection, study.value, words.value)

    def choose(_):
        before, words.value = (
            words.value,
            collection.reports[study.value],
        )  # a new text renews the page
        if before == words.value:
            renew()

    study.observe(choose, "value")
    words.observe(renew, "value")
    again.on_click(renew)
    return ipywidgets.VBox([study, words, again, answer])


def viewer(collection) -> ipywidgets.VBox:
    """Pick a study, edit the sentence; point at a word, or click it, to see its map."""
    return _reader(collection, words_of, "show maps")


def checker(collection) -> ipywidgets.VBox:
    """Edit a report: how well it matches the image, and which words are against it."""
    return _reader(collection, check_of, "check")


def browser(collection, sentence: str = "a pleural effusion is present.") -> ipywidgets.VBox:
    """Images for a sentence, reports for an image."""
    asked, images = _text(sentence, 1), ipywidgets.HTML(images_of(collection, sentence))
    study, reports = _studies(collection), ipywidgets.HTML(reports_of(collection, 0))
    button = ipywidgets.Button(description="find images")
    button.on_click(lambda _: setattr(images, "value", images_of(collection, asked.value)))
    asked.observe(lambda _: setattr(images, "value", images_of(collection, asked.value)), "value")
    study.observe(lambda _: setattr(reports, "value", reports_of(collection, study.value)), "value")
    return ipywidgets.VBox([asked, button, images, study, reports])
