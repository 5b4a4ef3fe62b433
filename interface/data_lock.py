"""One serving app for each data folder. The lock is the system's own, so that it ends with the process, however that
ends; the file tells a second start where the first one is.

Only `serve` takes it: the terminal's chat keeps its conversation in memory, and `plan` and `models` touch none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

from configs.errors import ConfigError
from engines.errors import DataInUse

log = logging.getLogger(__name__)

FAR = 2**30
"""Windows locks bytes, and lets nobody else read them: one far behind the address is locked."""
ADDRESS_WAIT = 3.0
"""Seconds that an app that is just starting is given to write its address."""


class DataLock:
    """Held from its making until `release`, in a folder that is there.

    Raises DataInUse(folder, address), and then nothing has changed; ConfigError where nothing can be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "running.lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError("data_unwritable", folder=folder, detail=error.strerror or str(error)) from None
        if not _locked(self._file):
            os.close(self._file)
            raise DataInUse(folder=str(folder), address=_address_in(path))
        os.ftruncate(self._file, 0)  # a killed app has left its address

    def serving(self, address: str) -> None:
        """Tells who comes later where this app is."""
        with contextlib.suppress(OSError):  # a full disk costs them the address, no more
            os.write(self._file, address.encode())

    def release(self) -> None:
        os.ftruncate(self._file, 0)
        os.close(self._file)


def in_use(folder: Path) -> str | None:
    """The address of the app that uses a folder now, "" while that is starting; None if there is none.

    Only looks: on Windows by trying to read what is locked, elsewhere by a shared lock that is given back at once.
    """
    path = folder / "running.lock"
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        held = not _locked(file, shared=True)
    finally:
        os.close(file)
    return path.read_text(encoding="utf-8", errors="replace").strip() if held else None


def _address_in(path: Path) -> str:
    end = time.monotonic() + ADDRESS_WAIT
    while True:
        address = path.read_text(encoding="utf-8", errors="replace").strip()
        if address or time.monotonic() > end:
            return address
        time.sleep(0.05)


def _locked(file: int, shared: bool = False) -> bool:
    """Whether the lock could be had; also where the file system knows no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            if shared:
                os.lseek(file, FAR, os.SEEK_SET)
                os.read(file, 1)
                return True
            os.lseek(file, FAR, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        log.warning("the data folder cannot be locked: %s", error)
    return True
