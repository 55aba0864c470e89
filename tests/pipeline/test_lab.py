"""The notebooks in JupyterLab, in a real browser: opened by `run_all.sh lab`, Run All, all
green.
"""

import pytest
from lab import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory, browser):
    started = Lab(tmp_path_factory.mktemp("lab"))
    yield started
    started.close()


def test_run_all_is_green(lab, browser, tmp_path):
    page = browser.page()
    cells = lab.run(page, "00_check_setup")
    assert len(cells) == 5 and [text for cell in cells for text in cell["outputs"] if text] == []
    assert all(cell["shown"] for cell in cells if cell["views"])
    assert page.problems == []
    assert (lab.root / "notebooks" / "00_check_setup.ipynb").read_text().count("[OK]") > 5, (
        "saved with its outputs"
    )


def test_a_failing_cell_is_seen(lab, browser):
    """The check can fail: an error in a cell is reported, and what comes after is not taken for
    run.
    """
    path = lab.root / "notebooks" / "00_check_setup.ipynb"
    text = path.read_text()
    path.write_text(text.replace("doctor.check(run.preset, data)", "doctor.no_such_thing"))
    assert path.read_text() != text
    cells = lab.run(browser.page(), "00_check_setup")
    assert (
        any("AttributeError" in text for cell in cells for text in cell["outputs"])
        and not cells[-1]["count"]
    )
