"""A request's images: data URLs and addresses -> through the gate, into a folder that lives as long as the answer.

Nothing of a request is kept, and no page can be shown its images: the folder is not among those that are served.
"""

from __future__ import annotations

import base64
import binascii
import shutil
import tempfile
import threading
import time
from pathlib import Path

import anyio
import anyio.to_thread

from configs.schema import AppConfig
from engines.base import ImagePart, Message, TextPart
from engines.errors import AppError, TooManyImages
from engines.job import Job
from interface.api.errors import ApiError
from interface.api.requests import ChatRequest, ImageAt, Turn
from interface.remote_images import RemoteImages
from interface.uploads import Uploads

MOST_IMAGES = 64
"""In all of a request: each is decoded, though an engine leaves out the oldest turns when there are too many."""
STALE = 24 * 3600.0

# The gate takes one at a time: more would only wait for it in threads that others need.
_threads = anyio.CapacityLimiter(2)


class RequestImages:
    """One folder for each request, under `config.data`."""

    def __init__(self, config: AppConfig, remote: RemoteImages | None = None) -> None:
        self._limits, self._home = config.uploads, config.data / "requests"
        self._remote = remote or RemoteImages(config.uploads.max_bytes, config.models.offline)
        self._home.mkdir(parents=True, exist_ok=True)
        for left in self._home.iterdir():  # by an app that was killed
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)

    def check(self, request: ChatRequest) -> None:
        """Raises TooManyImages(images, limit) before any is looked at."""
        most = max((sum(isinstance(part, ImageAt) for part in one.parts) for one in request.turns), default=0)
        if most > self._limits.max_images:
            raise TooManyImages(images=most, limit=self._limits.max_images)
        if len(request.images) > MOST_IMAGES:
            raise TooManyImages(images=len(request.images), limit=MOST_IMAGES)

    def folder(self) -> Path:
        """A new one."""
        return Path(tempfile.mkdtemp(dir=self._home))

    async def accept(self, image: ImageAt, folder: Path) -> ImagePart:
        """The image in `folder`, as the gate made it. Raises ApiError, ImageNotFetched or ImageRejected."""
        if image.url[:5].lower() == "data:":
            data = await anyio.to_thread.run_sync(_inline, image, limiter=_threads)
        else:
            data = await self._remote.fetch(image.url)
        return await anyio.to_thread.run_sync(self._gate, data, folder / image.where, limiter=_threads)

    def _gate(self, data: bytes, file: Path) -> ImagePart:
        file.write_bytes(data)
        try:
            return Uploads(self._limits, file.parent, file.parent).accept(file)
        finally:
            file.unlink()

    def remove_after(self, job: Job, folder: Path) -> None:
        """Deletes a folder when nothing can read it any more: when its job has ended, by whatever."""
        threading.Thread(target=_remove_after, args=(job, folder), name="request images", daemon=True).start()


def message(turn: Turn, images: dict[str, ImagePart]) -> Message:
    """A turn as engines take it, each image by its place. Texts of several parts stand below each other."""
    texts = [part.text for part in turn.parts if isinstance(part, TextPart)]
    shown = [images[part.where] for part in turn.parts if isinstance(part, ImageAt)]
    return Message(turn.role, (*shown, TextPart("\n".join(texts))))


def _inline(image: ImageAt) -> bytes:
    head, comma, data = image.url.partition(",")
    try:
        if not comma or not head.lower().endswith(";base64"):
            raise ApiError(400, "api.bad_data_url", "invalid_image_url", image.where)
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "api.bad_base64", "invalid_base64", image.where) from None


def _remove_after(job: Job, folder: Path) -> None:
    try:
        for _ in job.watch():
            pass
    except AppError:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
