"""Fixtures that several layers share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = "smollm2-135m-instruct"
FIRST = ("test_acquire.py", "test_launch.py", "e2e", "ways", "app")
"""What takes long comes first, and what waits beside what computes: the many small ones fill up at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are for machines with a card; the page's tests for those with Chromium."""
    items.sort(key=lambda item: next((n for n, name in enumerate(FIRST) if name in item.path.parts), len(FIRST)))
    no_card = pytest.mark.skip(reason="needs a CUDA card")
    no_browser = pytest.mark.skip(reason="needs Chromium: apt-get install chromium")
    has_card, has_browser = shutil.which("nvidia-smi") is not None, shutil.which("chromium") is not None
    for item in items:
        if "gpu" in item.keywords and not has_card:
            item.add_marker(no_card)
        if "e2e" in item.path.parts and not has_browser:
            item.add_marker(no_browser)


@pytest.fixture(autouse=True)
def _no_settings_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's SHUSHENG_* variables are not the tests'."""
    for name in [name for name in os.environ if name.startswith("SHUSHENG_") and "TEST" not in name]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def embedded_models() -> Path:
    """The folder that holds the embedded model, fetched by the product itself where it is not here yet."""
    subprocess.run([sys.executable, "launch.py", "models", "get", EMBEDDED], cwd=ROOT, check=True, timeout=600)
    return ROOT / "data" / "models"
