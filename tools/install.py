"""Makes .venv and installs the app's requirements into it: with CUDA where there is a card, without where there is not.

Runs on any Python 3.11 or newer with nothing installed. Does nothing when nothing has changed since the last time.
Usage: python tools/install.py [--dev]
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
TORCH_CPU = "https://download.pytorch.org/whl/cpu"


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}. / 需要 Python 3.11 或更新版本。")
    dev, card = "--dev" in sys.argv, has_card()
    files = ["requirements-cuda.txt" if card else "requirements.txt"]
    files += ["requirements-dev.txt"] if dev else []
    alone = ["requirements-lmdeploy.txt"] if dev and not card else []
    stamp = VENV / f".installed-{'dev' if dev else 'run'}"
    state = digest([*files, *alone])
    if PYTHON.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == state:
        return
    if not PYTHON.exists():
        print("Making .venv …", flush=True)
        make_venv()
    install_socks()
    if not card:
        install_cpu_torch()
    install(files)
    if alone:
        install(alone, "--no-deps")
    stamp.write_text(state, encoding="ascii")


def has_card() -> bool:
    """Whether NVIDIA's driver finds a card."""
    program = shutil.which("nvidia-smi")
    return program is not None and subprocess.run([program, "-L"], capture_output=True, check=False).returncode == 0


def digest(files: list[str]) -> str:
    """Changes whenever one of the requirement files, or this Python, does."""
    known = [*files, "requirements.txt"]
    content = b"".join((ROOT / file).read_bytes() for file in known) + sys.version.encode()
    return hashlib.sha256(content).hexdigest()


def make_venv() -> None:
    try:
        venv.create(VENV, with_pip=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit("This Python cannot make environments. On Debian and Ubuntu: sudo apt install python3-venv")


def install_socks() -> None:
    """Installs what pip needs for a SOCKS proxy, past all proxies: before it is here, pip cannot use such a one."""
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    if any(value.lower().startswith("socks") for value in proxies.values()):
        rest = {name: value for name, value in os.environ.items() if name not in proxies}
        pip("install", requirement("PySocks"), environ=rest)


def requirement(package: str) -> str:
    """The line of requirements.txt that names a package."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(package)).split("#")[0].strip()


def install_cpu_torch() -> None:
    """Installs torch so that no CUDA packages come along: a CPU build that pip finds by itself, or PyTorch's own."""
    wanted = requirement("torch")
    here = subprocess.run(
        [PYTHON, "-c", "import importlib.metadata as m; print(m.version('torch'))"], capture_output=True, check=False
    )
    if here.returncode == 0:
        return
    print(f"Installing {wanted} for the CPU …", flush=True)
    pip(
        "install", wanted, *([] if finds_cpu_build(wanted) else ["--index-url", TORCH_CPU, "--extra-index-url", pypi()])
    )


def finds_cpu_build(wanted: str) -> bool:
    """Whether pip, as it is configured, would take a build of torch without CUDA. PyPI's is one but on Linux."""
    if sys.platform != "linux":
        return True
    asked = subprocess.run(
        [PYTHON, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--ignore-installed", "--report", "-",
         wanted],
        capture_output=True, check=False,
    )  # fmt: skip
    if asked.returncode != 0:
        return False
    (found,) = json.loads(asked.stdout)["install"]
    return "+cpu" in found["metadata"]["version"]


def pypi() -> str:
    """The index that pip is configured with: a mirror stays in use."""
    asked = subprocess.run(
        [PYTHON, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, check=False, text=True
    )
    return os.environ.get("PIP_INDEX_URL") or asked.stdout.strip() or "https://pypi.org/simple"


def install(files: list[str], *options: str) -> None:
    """Installs what requirement files name."""
    print(f"Installing {' and '.join(files)} …", flush=True)
    pip("install", *options, *[part for file in files for part in ("-r", str(ROOT / file))])


def pip(*arguments: str, environ: dict[str, str] | None = None) -> None:
    done = subprocess.run([PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments], check=False, env=environ)
    if done.returncode != 0:
        sys.exit(
            "pip failed; its words are above. Behind a slow network a mirror helps, for example\n"
            "  pip config set global.index-url https://mirrors.aliyun.com/pypi/simple/\n"
            "and then the same command again: what is installed stays."
        )


if __name__ == "__main__":
    main()
