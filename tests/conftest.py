"""Shared fixtures. Tests that need the maintainers' real samples take `shared` and skip where it is
absent.
"""

from pathlib import Path

import pytest

import medxvl

medxvl.set_up()

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real reports, radiographs, labels and parity tensors, beside the checkout."""
    if not (SHARED / "spec").is_dir():
        pytest.skip(
            "needs the maintainers' sample data (../shared), which is not part of the project"
        )
    return SHARED


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium (tests/helpers/browser.py)."""
    from browser import Browser, program

    if not program():
        pytest.skip("needs Chromium (apt-get install chromium), which is not here")
    started = Browser(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def one_thread():
    """Work as small as these tests' is slower on several, and much slower beside other programs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def medvill_trained(tmp_path_factory):
    """MedViLL aligned and pre-trained on brightness (medvill_tasks_data.py), once for all tests of
    its tasks: its folder of runs, and what `medvill_tasks_data.pretrain` gives.
    """
    from medvill_tasks_data import pretrain

    from medxvl.config import paths

    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", runs)
        return runs, pretrain(tmp_path_factory.mktemp("pretrained") / "medvill_pretrain")


@pytest.fixture
def pretrained(medvill_trained, monkeypatch):
    """Model, log, folder and checkpoint's name; the start that all masks share lies beside them."""
    from medxvl.config import paths

    monkeypatch.setattr(paths, "RUNS", medvill_trained[0])
    return medvill_trained[1]


@pytest.fixture
def closed_figures():
    """Figures are drawn without a display, and closed after the test."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """runs/demo as all notebooks leave it (tests/helpers/figure_run.py)."""
    from figure_run import write_run

    from medxvl.config import paths

    monkeypatch.setattr(paths, "RUNS", tmp_path)
    return write_run(tmp_path / "demo")
