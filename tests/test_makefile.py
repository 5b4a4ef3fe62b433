"""What make does, with stand-ins for the installer and the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MADE = ("requirements.txt", "requirements-cuda.txt", "tools/install.py", ".venv/.installed-run")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_start_asks_the_installer_even_when_all_is_installed(tmp_path: Path) -> None:
    """A graphics card added later changes no file that make could compare."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*MADE, ".venv/bin/python", "installer"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\necho $0 $@\n")
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": os.environ["PATH"]}  # without the ARGS of a make that runs the tests
    done = subprocess.run(
        ["make", "run", "PYTHON=./installer"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["./installer tools/install.py", ".venv/bin/python launch.py"]
