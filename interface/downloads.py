"""Downloads belong to the server: one thread for each, looked at by any number of pages. Words nothing.

A paused one keeps what has come, on the disk, so that it is paused after a restart too; a cancelled one does not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from configs.schema import ModelSpec
from engines import disk
from engines.acquire import Progress
from engines.disk import Partial
from engines.errors import AppError, DownloadCancelled
from engines.library import Library

log = logging.getLogger(__name__)

MEASURED = 2**20
"""Bytes that a speed is taken from at least."""


@dataclass
class Download:
    """One model on its way. `progress` is the latest, `error` why it ended if it did not succeed."""

    model: str
    progress: Progress | None = None
    error: AppError | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    unwanted: bool = False
    """Whether what has come is to go, too."""
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None
    """When bytes came first and last, and how many there were."""

    @property
    def running(self) -> bool:
        return not self.ended.is_set()

    def seen(self, progress: Progress) -> None:
        self.progress = progress
        if progress.stage == "downloading":
            self.last = time.monotonic(), progress.done
            self.first = self.first or self.last

    def speed(self) -> int:
        """Bytes per second over the whole of it, or 0 if too little came to tell."""
        if self.first is None or self.last is None:
            return 0
        seconds, came = self.last[0] - self.first[0], self.last[1] - self.first[1]
        return int(came / seconds) if came >= MEASURED and seconds > 0 else 0


class Downloads:
    """Safe from any thread."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._downloads: dict[str, Download] = {}
        self._lock = threading.Lock()

    def start(self, model: str, then: Callable[[], object] = lambda: None) -> Download:
        """The running download of `model`, or a new one that ends with a call of `then`. Raises ModelUnknown."""
        spec = self._library.spec(model)
        with self._lock:
            download = self._downloads.get(model)
            if download is None or not download.running:
                download = self._downloads[model] = Download(model)
                threading.Thread(target=self._run, args=(spec, download, then), name="download", daemon=True).start()
            return download

    def of(self, model: str) -> Download | None:
        """The last download of `model` since the start, running or ended."""
        return self._downloads.get(model)

    @property
    def running(self) -> bool:
        return any(download.running for download in list(self._downloads.values()))

    def paused(self, model: str) -> Partial | None:
        """What has come of a model that is not on its way now."""
        download = self._downloads.get(model)
        if self._library.fake or (download is not None and download.running):
            return None
        return disk.partial(self._library.spec(model), self._library.config)

    def pause(self, model: str) -> None:
        """Ends it; what has come is kept."""
        download = self._downloads.get(model)
        if download is not None:
            download.stopped.set()

    def cancel(self, model: str) -> None:
        """Ends it, and removes what has come."""
        with self._lock:
            download = self._downloads.get(model)
            if download is not None and download.running:
                download.unwanted = True
                download.stopped.set()
                return
            self._downloads.pop(model, None)
        disk.discard_partial(self._library.spec(model), self._library.config)

    def delete(self, model: str) -> None:
        """Removes what is in the data folder of a model that is not on its way, and not loaded."""
        with self._lock:
            download = self._downloads.get(model)
            if download is not None and download.running:
                return
            self._downloads.pop(model, None)
        disk.delete(self._library.spec(model), self._library.config)

    def close(self, timeout: float = 5.0) -> None:
        """Ends all and waits; what has come is kept for the next time."""
        for download in list(self._downloads.values()):
            download.stopped.set()
        for download in list(self._downloads.values()):
            download.ended.wait(timeout)

    def _run(self, spec: ModelSpec, download: Download, then: Callable[[], object]) -> None:
        try:
            self._library.acquire(spec.id, download.seen, download.stopped.is_set)
            then()
        except DownloadCancelled:
            log.info("the download of %s was stopped", spec.id)
        except AppError as error:
            log.warning("the download of %s failed: %s", spec.id, error)
            download.error = error
        except Exception:
            log.exception("the download of %s failed", spec.id)
            download.error = AppError(model=spec.id)
        finally:
            if speed := download.speed():
                self._library.preferred.change(speed=speed)
            with self._lock:  # whoever cancels it from here on finds it ended
                if download.unwanted:
                    disk.discard_partial(spec, self._library.config)
                download.ended.set()
