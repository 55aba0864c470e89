"""The viewers: what they show, what they may not show, and a session in JupyterLab in a real
browser.
"""

import json
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import widgets_data

from medxvl.config import paths
from medxvl.notebook import viewers
from medxvl.training import progress

LAB_SECONDS = 240  # a loaded machine is slow to start JupyterLab and a kernel


@pytest.fixture(scope="module")
def studies():
    return widgets_data.collection()


def box(viewer):
    """Its widgets by kind."""
    return {type(child).__name__: child for child in viewer.children}


# --- what is shown --------------------------------------------------------------------------------
def test_only_studies_that_may_be_shown_and_have_a_report(studies):
    assert [t.split()[-1] for t in studies.titles] == [
        "s0",
        "s1",
        "s2",
        "s4",
    ] and studies.views.shape == (4, 64, 64)
    with pytest.raises(ValueError, match="may be shown"):
        widgets_data.collection(label="hospital", synthetic=False)


def test_word_page_has_a_map_a_word_and_nothing_of_the_text_is_markup(studies):
    page = viewers.words_of(studies, 2, widgets_data.REPORTS[2])
    assert (
        page.count("<label") == page.count('class="map') == 5 and "Synthetic phantom" in page
    )  # "&" is no word
    assert "&lt;enlarged&gt;" in page and "<enlarged>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page), "the page needs no other file"
    assert page == viewers.words_of(studies, 2, widgets_data.REPORTS[2])
    assert page != viewers.words_of(studies, 1, widgets_data.REPORTS[2])


def test_overlay_is_clear_where_the_map_is_empty():
    assert not viewers.overlay(np.zeros((4, 4)), 64)[..., 3].any()
    one = np.zeros((4, 4))
    one[0, 3] = 2.0
    alpha = viewers.overlay(one, 64)[..., 3]
    assert alpha[:8, 56:].min() == 191 and alpha[:16, 48:].min() > 50 and not alpha[32:].any()


def test_empty_and_overlong_texts(studies):
    for page in (viewers.words_of, viewers.check_of):
        assert "Write" in page(studies, 0, "  ")
        assert "<div" in page(studies, 0, "effusion " * 300) and "<div" in page(
            studies, 0, "?! ..."
        )
    assert "Write" in viewers.images_of(studies, "")


def test_checked_words_are_redder_the_better_the_match_without_them():
    answer = 0.25, ["left", "effusion"], np.array([2.0, -1.0]), ["right", "effusion"]
    one = SimpleNamespace(
        views=np.zeros((1, 8, 8), np.uint8), label="phantom:x", check=lambda study, report: answer
    )
    page = viewers.check_of(one, 0, "left effusion")
    shades = [float(x) for x in re.findall(r"rgba\(213,94,0,([\d.]+)\)", page)]
    assert (
        shades == [0.75, 0.0]
        and "25.0%" in page
        and "logit +2.00 without it; the model would write: right" in page
    )


def test_retrieval_is_ordered_by_the_match(studies):
    best, logits = studies.find_images("left effusion", most=3)
    assert len(best) == 3 and (np.diff(logits) <= 0).all()
    best, logits = studies.find_reports(1)
    assert sorted(best) == [0, 1, 2, 3] and (np.diff(logits) <= 0).all()
    one, _ = studies.find_images("left effusion", shortlist=1)
    assert len(one) == 1
    assert "OWN REPORT" in viewers.reports_of(studies, 1)


# --- the boxes, driven without a browser ----------------------------------------------------------
@pytest.mark.parametrize(
    "make, page", [(viewers.viewer, viewers.words_of), (viewers.checker, viewers.check_of)]
)
def test_a_study_brings_its_report_and_an_edit_brings_a_new_page(studies, make, page):
    parts = box(make(studies))
    assert parts["HTML"].value == page(studies, 0, studies.reports[0])
    parts["Dropdown"].value = 1
    assert parts["Textarea"].value == studies.reports[1] and parts["HTML"].value == page(
        studies, 1, studies.reports[1]
    )
    parts["Textarea"].value = "the heart is round"
    assert parts["HTML"].value == page(studies, 1, "the heart is round")
    parts["HTML"].value = ""
    parts["Button"].click()
    assert parts["HTML"].value == page(studies, 1, "the heart is round")


def test_the_browser_asks_both_ways(studies):
    asked, button, images, study, reports = viewers.browser(studies).children
    before = images.value, reports.value
    asked.value, study.value = "round heart", 2
    assert images.value == viewers.images_of(studies, "round heart") != before[0]
    assert reports.value == viewers.reports_of(studies, 2) != before[1]


def test_without_a_reader_the_still_is_shown_alone(studies, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(viewers, "display", lambda bundle, raw: shown.append(bundle))
    viewer = viewers.viewer(studies)
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    viewers.shown(viewer, "<p>still</p>")
    monkeypatch.setenv(progress.HEADLESS, "1")
    viewers.shown(viewer, "<p>still</p>")
    live, still = shown
    assert live["text/html"] == still["text/html"] == "<p>still</p>"
    assert any("widget-view" in kind for kind in live) and not any(
        "widget" in kind for kind in still
    )


# --- in JupyterLab --------------------------------------------------------------------------------
CELLS = (
    "import medxvl\nmedxvl.set_up()\nimport widgets_data\n"
    "from medxvl.notebook import viewers as widgets\n"
    "studies = widgets_data.collection()",
    "widgets.shown(widgets.viewer(studies), '<p>still</p>')",
    "widgets.shown(widgets.checker(studies), '<p>still</p>')",
    "widgets.shown(widgets.browser(studies), '<p>still</p>')",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a free local port, with folders of its own; the address of a notebook in it."""
    home = tmp_path_factory.mktemp("lab")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    (home / "work").mkdir()
    nbformat.write(book, home / "work" / "viewers.ipynb")
    own = {
        f"JUPYTER{name}": str(home / name)
        for name in ("_RUNTIME_DIR", "_CONFIG_DIR", "LAB_WORKSPACES_DIR", "LAB_SETTINGS_DIR")
    }
    path = os.pathsep.join([str(paths.ROOT), str(paths.ROOT / "tests" / "helpers")])
    env = (
        os.environ
        | own
        | {"PYTHONPATH": path, "JUPYTER_PREFER_ENV_PATH": "1", "IPYTHONDIR": str(home / "ipython")}
    )
    env.pop(progress.HEADLESS, None)
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
    ]
    command += [
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--ServerApp.root_dir={home / 'work'}",
    ]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(home / "log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=home)
    try:
        deadline = time.time() + LAB_SECONDS
        while not (told := list((home / "_RUNTIME_DIR").glob("jpserver-*.json"))):
            assert process.poll() is None and time.time() < deadline, (home / "log").read_text()[
                -2000:
            ]
            time.sleep(0.3)
        server = json.loads(told[0].read_text())
        yield f"{server['url']}lab/tree/viewers.ipynb?token={server['token']}"
    finally:
        process.terminate()  # it shuts its kernels down
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def test_in_jupyterlab(browser, lab, tmp_path):
    """Load, run all, point at a word, click it, choose a study, edit and check a report, search;
    pictures are kept in tmp_path.
    """
    page = browser.page()
    page.ask(
        "Emulation.setFocusEmulationEnabled", enabled=True
    )  # JupyterLab tells by the focus which notebook is meant
    page.size(1300, 3000)
    page.open(lab)
    page.wait("window.jupyterapp && document.querySelector('.jp-Notebook') && true", LAB_SECONDS)
    page.run("void jupyterapp.shell.activateById([...jupyterapp.shell.widgets('main')][0].id)")
    page.wait(
        "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.connectionStatus "
        "=== 'connected'",
        LAB_SECONDS,
    )
    page.run("void jupyterapp.commands.execute('notebook:run-all-cells')")
    failed = (
        "[...document.querySelectorAll('.jp-RenderedText[data-mime-type*=stderr], "
        ".jp-RenderedText[data-mime-type*=error]')].map(e => e.innerText).join()"
    )
    page.wait(
        "document.querySelectorAll('.jp-OutputArea .widget-dropdown select').length === 3 "
        f"|| {failed}",
        LAB_SECONDS,
    )
    assert page.run(failed) == ""
    page.wait("document.querySelectorAll('.jp-OutputArea .mx').length >= 4")
    page.screenshot(tmp_path / "ran.png")
    assert not page.run(
        "[...document.querySelectorAll('.jp-OutputArea')].some(o => o.innerText.includes('still'))"
    )

    seen = "getComputedStyle(document.querySelector('.mx .pane .map.w4')).opacity"
    page.run("document.querySelectorAll('.mx .map').forEach(m => m.style.transition = 'none')")
    page.click(".mx label.l4")
    assert page.wait(f"{seen} === '1'")
    page.click(".mx label.l1")
    page.run("document.querySelector('.mx label.l1').scrollIntoView()")
    page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    assert page.wait(f"{seen} === '0'") and page.run(seen.replace("w4", "w1")) == "1"
    place = page.run(
        "JSON.stringify(document.querySelector('.mx label.l4').getBoundingClientRect())"
    )
    page.ask(
        "Input.dispatchMouseEvent",
        type="mouseMoved",
        x=json.loads(place)["x"] + 5,
        y=json.loads(place)["y"] + 5,
    )
    assert (
        page.wait(f"{seen} === '1'") and page.run(seen.replace("w4", "w1")) == "0"
    )  # what is pointed at goes first

    change = "e.dispatchEvent(new Event('change', {bubbles: true}))"
    page.run(
        f"(() => {{ const e = document.querySelectorAll('.widget-dropdown select')[0]; "
        f"e.selectedIndex = 1; {change} }})()"
    )
    page.wait("document.querySelectorAll('.mx')[0].innerText.includes('ground-glass')")

    before = page.run("document.querySelector('.mx .score').innerText")
    page.run("document.querySelectorAll('.widget-textarea textarea')[1].focus()")
    page.run("document.querySelectorAll('.widget-textarea textarea')[1].select()")
    page.ask("Input.insertText", text="heart round")
    page.run("document.querySelectorAll('.widget-textarea textarea')[1].blur()")
    page.wait(
        "[...document.querySelectorAll('.mx mark')].map(m => m.innerText).join(' ') === "
        "'heart round'"
    )
    assert page.run("document.querySelector('.mx .score').innerText") != before
    page.run(
        f"(() => {{ const e = document.querySelectorAll('.widget-dropdown select')[2]; "
        f"e.selectedIndex = 2; {change} }})()"
    )
    page.wait(
        "[...document.querySelectorAll('.mx figcaption')].some(c => c.innerText === 'asked: "
        "3: study s2')"
    )
    page.screenshot(tmp_path / "used.png")
    assert (tmp_path / "used.png").stat().st_size > 30_000
