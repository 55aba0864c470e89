"""The web pages in a browser: whole without a network, readable on a phone, light and dark."""

import json

import matplotlib
import pytest
from page_checks import check_pages

from medxvl.config import paths, records
from medxvl.evaluation import published
from medxvl.pipeline import index_page
from medxvl.pipeline import pages as html
from medxvl.plots import results, style

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A run with one notebook whose outputs are as wide as they come, figures, rows and a
    manifest.
    """
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    folder = tmp_path / "demo"
    style.save(
        results.radar(published.load_paper(), "auroc"), folder / "figures" / "xvl-radar-auroc"
    )
    style.save(results.radar(published.load_paper(), "f1_max"), folder / "figures" / "some_other")
    plt.close("all")
    picture = index_page.embedded(folder / "figures" / "some_other.png").partition(",")[2]
    row = "".join(f"<td>{'wide' * 10}</td>" for _ in range(20))
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "a long line " * 60},
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {"image/png": picture, "text/plain": "<Figure>"},
        },
        {
            "output_type": "execute_result",
            "execution_count": 1,
            "metadata": {},
            "data": {
                "text/html": f"<table class='dataframe'><tr>{row}</tr></table>",
                "text/plain": "wide " * 100,
            },
        },
        {
            "output_type": "error",
            "ename": "KeyError",
            "evalue": "x" * 300,
            "traceback": ["Traceback " + "y" * 300],
        },
    ]
    words = "# 21 A title\n\n| a | b |\n|---|---|\n| " + "cell " * 80 + " | `" + "code" * 60 + "` |"
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": words},
        {
            "cell_type": "code",
            "id": "b",
            "metadata": {},
            "execution_count": 1,
            "outputs": outputs,
            "source": "1 + " * 100 + "1",
        },
    ]
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    records.write_json(folder / "notebooks" / "21_xvl_pretrain.ipynb", book)
    values = (
        "r,xvl,zero_shot,phantom:mimic_cxr,test,Edema,X-VL "
        "(ITM),auroc,0.81234,0.7,0.9,60,,0,demo,checkpoint,m"
    ).split(",")
    records.write_text(
        folder / "results.csv", ",".join(records.COLUMNS) + "\n" + ",".join(values) + "\n"
    )
    records.write_json(
        folder / "manifest.json",
        {
            "git": {"commit": "f" * 40},
            "preset": {"seed": 0, "text_weights": "w" * 200},
            "versions": {"torch": "2"},
            "checkpoints": {"a/b": {"sha256": "e" * 64}},
            "data": {"main": {"label": "phantom:x", "fingerprint": "abc"}},
        },
    )
    records.write_json(
        folder / "data" / "main.json", {"synthetic": True, "label": "phantom:x", "role": "main"}
    )
    return folder


def test_pages_in_a_browser(run_folder, browser):
    index = html.build("demo")
    page, pages = check_pages(browser, index.parent)
    assert [path.stem for path in pages] == ["21_xvl_pretrain", "index"]
    page.open(index.as_uri())
    assert page.run("document.images.length") == 2
    page.click('a[href="21_xvl_pretrain.html"]')
    page.wait("document.title.startsWith('21_xvl_pretrain')", 10)
    page.click("nav a")
    page.wait("document.title == 'medxvl: demo'", 10)


def test_the_index_has_everything(run_folder):
    said = html.build("demo").read_text(encoding="utf-8")
    order = [
        said.index(f'id="{part}"')
        for part in ("notebooks", "figures", "results", "how-it-was-made")
    ]
    order = [said.index('href="#how-it-was-made"'), *order]
    assert order == sorted(order)
    assert "<em>published values</em>" in said and "some other" in said, (
        "captions: of the index of figures, or the name"
    )
    assert "not reproducible: institutional data" in said, "what is not there, and why"
    assert (
        "0.812 [0.700, 0.900]" in said
        and "zero shot" in said
        and "f" * 40 in said
        and "not verified" in said
    )
    for name in ("results.csv", "manifest.json", "xvl-radar-auroc.pdf"):
        assert f'<a download="{name}" href="data:' in said, "nothing lies outside of the page"
    assert json.loads((run_folder / "manifest.json").read_text())["versions"] == {"torch": "2"}
