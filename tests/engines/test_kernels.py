"""The card's own kernels without a card: in Triton's interpreter, which must be chosen before Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tools.served import ROOT


def test_triton_s_kernels_compute_what_torch_does() -> None:
    pytest.importorskip("triton", reason="needs Triton, 200 MB that only a card's torch brings")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/engines/interpreted_kernels.py"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
