"""Shared fixtures. Tests that need the maintainers' real samples take `shared` and skip where it is absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real reports, radiographs, labels and parity tensors, beside the checkout."""
    if not (SHARED / "spec").is_dir():
        pytest.skip("needs the maintainers' sample data (../shared), which is not part of the project")
    return SHARED
