"""Shared fixtures. Tests that need the maintainers' real samples take `shared` and skip where it is
absent.
"""

from pathlib import Path

import pytest

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
    """A headless Chromium (tests/browser.py)."""
    from browser import Browser, program

    if not program():
        pytest.skip("needs Chromium (apt-get install chromium), which is not here")
    started = Browser(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()
