"""Runs one function of fetch.py in a process that can be killed, and brings back what it returned or raised.

Knows nothing of what the function does; it sets up the environment that the hub clients and pip read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, TypeVar

from configs.schema import SourceKind
from engines.errors import AppError, DownloadFailed
from engines.fetch import one_line

ROOT = Path(__file__).resolve().parent.parent
POLL = 0.1  # seconds; a cancelled job ends this soon
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DEFAULTS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # also keeps torch and "agents" out of the user agent
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",  # would ask an address that the server names
    "MODELSCOPE_DOWNLOAD_FILE_LOCK": "false",  # acquire.py holds a lock of its own
    "MODELSCOPE_DOWNLOAD_TIMEOUT": "20",  # its 60 leave no second try before our `stall_after`
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": "604800",  # its hour per file is short for 2 GB on a slow line
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "3",
}

T = TypeVar("T")
log = logging.getLogger(__name__)


def run(
    source: SourceKind,
    scratch: Path,
    tick: Callable[[], None],
    job: Callable[..., T],
    *args: object,
    environ: Mapping[str, str] = MappingProxyType({}),
) -> T:
    """What `job(*args)` returns, run in a child whose temporary files go to `scratch`, with `environ` on top.

    `tick` is called ten times a second; an exception out of it ends the child and everything that it started.
    Raises what the job raised: an AppError as it is, anything else as the one that `fetch.named` makes of it.
    """
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-c", "from engines.fetch import main; main()"],
            cwd=ROOT,
            env=_environment(scratch) | dict(environ),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
        try:
            _send(process, (source, job, args))
            while not _ended(process):
                tick()
        finally:
            _kill(process)
        report = _report(source, output, errors, process.returncode)
    if isinstance(report, AppError):
        raise report
    return report


def _environment(scratch: Path) -> dict[str, str]:
    """The person's own (mirrors, proxies, pip's settings), loopback outside of proxies, nothing that identifies."""
    bypass = ",".join(filter(None, [os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), *LOOPBACK]))
    # modelscope's home holds an install id for its user agent and a pickled login: a fresh one has neither.
    fixed = {"MODELSCOPE_HOME": str(scratch), "MODELSCOPE_CACHE": str(scratch), "TMPDIR": str(scratch)}
    return DEFAULTS | os.environ | fixed | {"no_proxy": bypass, "NO_PROXY": bypass}


def _send(process: subprocess.Popen[bytes], order: object) -> None:
    # stdin stays open: its end is how the child learns of ours. A child that died at once is noticed by its exit.
    with contextlib.suppress(OSError):
        process.stdin.write(pickle.dumps(order))  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]


def _ended(process: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(POLL)
    return process.returncode is not None


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode == 0:
        return
    if hasattr(os, "killpg"):  # a child that died may have left pip behind
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _report(source: SourceKind, output: IO[bytes], errors: IO[bytes], code: int) -> Any:
    output.seek(0)
    errors.seek(0)
    said = errors.read().decode(errors="replace").strip()
    try:
        report = pickle.load(output)  # noqa: S301  our own child's
    except (EOFError, pickle.UnpicklingError):
        last = said.splitlines()[-1] if said else f"exit code {code}"
        report = DownloadFailed(source=source, kind="tool", detail=one_line(last))
    if isinstance(report, AppError):
        log.warning("%s: %s; the client said: %s", source, report, one_line(said, 2000))
    return report
