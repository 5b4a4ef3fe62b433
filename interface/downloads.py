"""Downloads belong to the server: one thread for each, looked at by any number of pages. Words nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from configs.schema import ModelSpec
from engines.acquire import Progress, acquire
from engines.errors import AppError, DownloadCancelled
from engines.library import Library

log = logging.getLogger(__name__)


@dataclass
class Download:
    """One model on its way. `progress` is the latest, `error` why it ended if it did not succeed."""

    model: str
    progress: Progress | None = None
    error: AppError | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def running(self) -> bool:
        return not self.ended.is_set()

    def seen(self, progress: Progress) -> None:
        self.progress = progress


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

    def cancel(self, model: str) -> None:
        download = self._downloads.get(model)
        if download is not None:
            download.cancelled.set()

    def close(self, timeout: float = 5.0) -> None:
        """Cancels all and waits; what has come is kept for the next time."""
        for download in list(self._downloads.values()):
            download.cancelled.set()
        for download in list(self._downloads.values()):
            download.ended.wait(timeout)

    def _run(self, spec: ModelSpec, download: Download, then: Callable[[], object]) -> None:
        try:
            acquire(spec, self._library.config, download.seen, download.cancelled.is_set)
            then()
        except DownloadCancelled:
            log.info("the download of %s was cancelled", spec.id)
        except AppError as error:
            log.warning("the download of %s failed: %s", spec.id, error)
            download.error = error
        except Exception:
            log.exception("the download of %s failed", spec.id)
            download.error = AppError(model=spec.id)
        finally:
            download.ended.set()
