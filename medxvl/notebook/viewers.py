"""Viewers for JupyterLab: a word's map on the image, a report checked against its image, retrieval.

Each function gives an ipywidgets box; `shown` displays it. In a notebook that runs without a
reader, and in its web page, the box is replaced by what it would show first, as plain HTML: there,
too, a word's map appears under the mouse. The model's part is in medxvl.notebook.browse.
"""

import base64
import hashlib
import html
import io
import os

import ipywidgets
import matplotlib
import numpy as np
import torch
from IPython.display import display
from PIL import Image

from medxvl.training.progress import HEADLESS
from medxvl.xvl import word_maps

SIDE = 320  # px of the large picture
_STYLE = """<style>
.mx{font:14px/1.5 system-ui,sans-serif;max-width:46rem} .mx .note{opacity:.7;font-size:12px}
.mx input[type=radio]{position:absolute;opacity:0;width:1px;height:1px}
.mx label{display:inline-block;border:1px solid #8c8c8c;border-radius:4px;padding:0 .35em;
  margin:.1em .15em;cursor:pointer}
.mx input:checked+label{background:#0072b2;color:#fff;border-color:#0072b2}
.mx input:focus-visible+label{outline:2px solid #e69f00}
.mx label:hover{background:#e69f00;color:#000}
.mx .pane{position:relative;width:SIDEpx;max-width:100%;aspect-ratio:1;margin:.4em 0;
  background:#000}
.mx .pane img{position:absolute;inset:0;width:100%;height:100%;margin:0;background:none;
  border-radius:0}
.mx .pane img.map{opacity:0} .mx .pane img.map{transition:opacity .1s}
.mx mark{color:#000;border-radius:3px;padding:0 .25em;margin:.1em;display:inline-block;cursor:help}
.mx .row{display:flex;flex-wrap:wrap;gap:.6em} .mx figure{margin:0;width:9rem;font-size:12px}
.mx figure img{width:100%}
</style>""".replace("SIDE", str(SIDE))


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


def words_page(view: np.ndarray, words: list[str], maps: np.ndarray, note: str = "") -> str:
    """HTML: the image (S, S) and a button a word; its map (W, g, g) lies over the image while it is
    pointed at or chosen.
    """
    key = (
        "m"
        + hashlib.sha256(view.tobytes() + maps.tobytes() + repr(words).encode()).hexdigest()[:10]
    )
    chosen = int(maps.reshape(len(maps), -1).max(axis=1).argmax()) if len(maps) else -1
    one, rules, buttons = (
        f"#{key}#{key}#{key}",
        [],
        [],
    )  # thrice: what is pointed at goes before what is chosen
    for k, word in enumerate(words):
        rules.append(f"#{key} #{key}-{k}:checked~.pane .w{k}{{opacity:1}}")
        rules.append(
            f"{one} .l{k}:hover~.pane .map{{opacity:0}}{one} .l{k}:hover~.pane .w{k}{{opacity:1}}"
        )
        checked = " checked" * (k == chosen)
        buttons.append(f'<input type="radio" name="{key}" id="{key}-{k}"{checked}>')
        buttons.append(f'<label class="l{k}" for="{key}-{k}">{html.escape(word)}</label>')
    layers = [f'<img class="map w{k}" alt="map of {html.escape(w)}" '
              f'src="{picture(overlay(m, len(view)))}">'
              for k, (w, m) in enumerate(zip(words, maps, strict=True))]  # fmt: skip
    return (
        f'{_STYLE}<div class="mx" id="{key}"><style>{"".join(rules)}</style>{"".join(buttons)}'
        f'<div class="pane"><img alt="radiograph" src="{picture(view)}">{"".join(layers)}</div>'
        f'<div class="note">{html.escape(note)}</div></div>'
    )


def checked_page(
    view: np.ndarray,
    probability: float,
    words: list[str],
    rises: np.ndarray,
    offers: list[str],
    note: str = "",
) -> str:
    """HTML: the image, how likely image and report match, and the words: the redder, the better the
    match without them.
    """
    worst = max(
        float(np.max(rises, initial=0)), 1.0
    )  # a logit: smaller rises are no more than pale
    marks = []
    for word, rise, offer in zip(words, rises, offers, strict=True):
        told = f"logit {rise:+.2f} without it" + (
            f"; the model would write: {offer}" if offer and offer != word else ""
        )
        ground = f"rgba(213,94,0,{0.75 * max(0.0, rise) / worst:.2f})"
        marks.append(
            f'<mark style="background:{ground};color:inherit" '
            f'title="{html.escape(told)}">{html.escape(word)}</mark>'
        )
    return (
        f'{_STYLE}<div class="mx"><div class="pane" style="width:{SIDE // 2}px"><img '
        f'alt="radiograph" src="{picture(view)}"></div>'
        f'<div class="score">match: <b>{probability:.1%}</b></div><div>{"".join(marks)}</div>'
        f'<div class="note">{html.escape(note)} Point at a word for its number.</div></div>'
    )


def found_page(views, captions: list[str], note: str = "") -> str:
    """HTML: pictures (n, S, S) in a row, each with a caption."""
    figures = ['<figure><img alt="radiograph" '
               f'src="{picture(v)}"><figcaption>{html.escape(c)}</figcaption></figure>'
               for v, c in zip(views, captions, strict=True)]  # fmt: skip
    return (
        f'{_STYLE}<div class="mx"><div class="row">{"".join(figures)}</div><div '
        f'class="note">{html.escape(note)}</div></div>'
    )


def source(collection) -> str:
    """What the pictures are, for the line below them."""
    return (
        "Synthetic phantom, not patients."
        if collection.label.startswith("phantom")
        else f"Data: {collection.label}."
    )


def words_of(collection, study: int, sentence: str) -> str:
    """The page of a sentence on a study's image."""
    if not sentence.strip():
        return "<p>Write a sentence.</p>"
    words, maps, probability = collection.maps(study, sentence)
    return words_page(
        collection.views[study], words, maps, f"{source(collection)} Match: {probability:.1%}."
    )


def check_of(collection, study: int, report: str) -> str:
    """The page of a report checked against a study's image."""
    if not report.strip():
        return "<p>Write a report.</p>"
    return checked_page(
        collection.views[study], *collection.check(study, report), source(collection)
    )


def images_of(collection, sentence: str) -> str:
    """The page of the images that fit a sentence."""
    if not sentence.strip():
        return "<p>Write a sentence.</p>"
    best, logits = collection.find_images(sentence)
    captions = [
        f"{collection.titles[k]}, logit {x:.2f}: {collection.reports[k]}"
        for k, x in zip(best, logits, strict=True)
    ]
    return found_page(
        collection.views[best],
        captions,
        f"{source(collection)} Best match first, of {len(collection)} studies.",
    )


def reports_of(collection, study: int) -> str:
    """The page of the reports that fit a study's image, with the studies that they were written
    for.
    """
    best, logits = collection.find_reports(study)
    told = ["OWN REPORT, " if k == study else "" for k in best]
    captions = [
        f"{own}logit {x:.2f}: {collection.reports[k]}"
        for own, k, x in zip(told, best, logits, strict=True)
    ]
    own = found_page(collection.views[[study]], [f"asked: {collection.titles[study]}"])
    return own + found_page(
        collection.views[best],
        captions,
        f"{source(collection)} Each report with the image that it belongs to.",
    )


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
