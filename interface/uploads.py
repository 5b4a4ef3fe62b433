"""The one gate for images: an untrusted file in, a plain upright RGB image of ours out, or a refusal by name.

Whatever a file claims is checked from its header before a pixel is decoded. What is stored is decoded and encoded
anew, so that nothing of the file but its picture reaches an engine or a page; colours are taken as they stand, as the
models' makers do, without their profile.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from PIL import ExifTags, Image, ImageFile, PngImagePlugin, WebPImagePlugin  # noqa: F401  registers WebP

from configs.schema import UploadsConfig
from engines.base import ImagePart
from engines.errors import ImageRejected, TooManyImages

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
FOREIGN = {b"%PDF": "PDF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"8BPS": "PSD", b"\0\0\1\0": "ICO"}
"""First bytes of files that people take for images of the kinds above, so that they can be told what theirs is."""

PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
PNG_CHUNKS = 20_000
"""Pieces of a PNG; a large photograph has some thousands."""

THUMBNAIL_SIDE = 480
STORED: dict[str, Any] = {"format": "WEBP", "lossless": True, "quality": 0, "method": 0}
"""Lossless, so that an engine sees what was decoded; WebP, which takes half the time of PNG for a photograph."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_decoding = threading.RLock()
"""One image at a time, from file to store: a large one takes half a gigabyte on the way."""
Image.preinit()  # WebP is not among what this registers


class Uploads:
    """`inbox` is the folder that the server itself puts uploads into, `folder` where accepted images live.

    Safe from any thread; one image is decoded at a time, which bounds the memory that many uploads can take.
    """

    def __init__(self, limits: UploadsConfig, inbox: Path, folder: Path) -> None:
        self._limits, self._inbox, self.folder = limits, inbox, folder
        folder.mkdir(parents=True, exist_ok=True)

    def accept_all(self, paths: Sequence[str | Path]) -> tuple[ImagePart, ...]:
        """The images of one question. Raises TooManyImages(images, limit) or ImageRejected, and then takes none."""
        if len(paths) > self._limits.max_images:
            raise TooManyImages(images=len(paths), limit=self._limits.max_images)
        return tuple(self.accept(path) for path in paths)

    def accept(self, path: str | Path) -> ImagePart:
        """The stored image of an uploaded file. Raises ImageRejected(name, reason, and the reason's numbers)."""
        name = Path(path).name
        try:
            with self.uploaded(path).open("rb") as stream:
                return self.accept_stream(name, stream)
        except OSError:
            raise ImageRejected(name=name, reason="gone") from None

    def uploaded(self, path: str | Path) -> Path:
        """Where an uploaded file really is. Raises ImageRejected(name, reason="gone") if it is not there."""
        try:
            file = Path(path).resolve(strict=True)
        except OSError:
            raise ImageRejected(name=Path(path).name, reason="gone") from None
        # A crafted request may name any file of the machine; only what was uploaded is read.
        if not file.is_file() or not file.is_relative_to(self._inbox.resolve()):
            raise ImageRejected(name=Path(path).name, reason="gone")
        return file

    def accept_stream(self, name: str, stream: BinaryIO, stored: bool = False) -> ImagePart:
        """The same for what is no file of its own, like a part of an import.

        `stored` is for images that claim to have been through the gate: lossless, they are larger than they came.
        """
        limits = replace(self._limits, max_bytes=4 * self._limits.store_side**2) if stored else self._limits
        try:
            with _decoding:
                return self._store(_decoded(stream, limits))
        except ImageRejected as refusal:
            raise ImageRejected(name=name, **refusal.facts) from None

    def _store(self, image: Image.Image) -> ImagePart:
        """Written under the hash of its bytes: the same picture is kept once. Never half a file, whatever happens."""
        encoded = io.BytesIO()
        image.save(encoded, **STORED)
        sha256 = hashlib.sha256(encoded.getvalue()).hexdigest()
        path = image_path(self.folder, sha256)
        if not path.exists():
            small = io.BytesIO()
            thumbnail = image.copy()
            thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            thumbnail.save(small, "WEBP", quality=80)
            _write(thumbnail_path(self.folder, sha256), small.getvalue())
            _write(path, encoded.getvalue())
        return ImagePart(sha256, path, *image.size)


def image_path(folder: Path, sha256: str) -> Path:
    """Where a stored image is."""
    return folder / f"{sha256}.webp"


def thumbnail_path(folder: Path, sha256: str) -> Path:
    """Where its small version is, at most THUMBNAIL_SIDE pixels on a side: for pages."""
    return folder / f"{sha256}.small.webp"


def _decoded(stream: BinaryIO, limits: UploadsConfig) -> Image.Image:
    """A file's picture, upright, in RGB, no larger than it is stored. Raises ImageRejected without its name."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if size == 0:
        _refuse("empty")
    if size > limits.max_bytes:
        _refuse("too_many_bytes", size=size, limit=limits.max_bytes)
    factory = _reader(stream)
    if factory is PngImagePlugin.PngImageFile:
        stream = _without_texts(stream)
    with _decoding, _complete_files_only(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with factory(stream, "") as image:
                _measure(*image.size, limits)
                # A JPEG larger than what is stored is decoded at a fraction of its size.
                image.draft("RGB", (limits.store_side, limits.store_side))
                image.load()
                return _plain(image, limits.store_side)
        except ImageRejected:
            raise
        except Exception:
            # Decoders meet broken input with whatever they stumble over: OSError, SyntaxError, struct.error and more.
            _refuse("damaged")


def _reader(stream: BinaryIO) -> Any:
    """Pillow's class for this file, by its first bytes and not by its name.

    Not `Image.open`: that warns and raises about large images by a global of its own, without saying how large.
    """
    start = stream.read(1024)
    stream.seek(0)
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(start[:16]) is True:
            return factory
    if b"<svg" in start.lower():
        _refuse("foreign", format="SVG")
    if start[4:8] == b"ftyp":
        _refuse("foreign", format="AVIF" if start[8:12] == b"avif" else "HEIC")
    for magic, kind in FOREIGN.items():
        if start.startswith(magic):
            _refuse("foreign", format=kind)
    _refuse("not_an_image")


def _without_texts(stream: BinaryIO) -> BinaryIO:
    """A PNG without what Pillow would unpack though it is no picture: up to a megabyte for each kilobyte."""
    kept = io.BytesIO()
    kept.write(stream.read(8))
    for _ in range(PNG_CHUNKS):
        head = stream.read(8)
        body = int.from_bytes(head[:4], "big") + 4  # and its checksum
        if head[4:] in PNG_TEXTS:
            stream.seek(body, os.SEEK_CUR)
        elif head:
            kept.write(head)
            kept.write(stream.read(body))
        else:
            kept.seek(0)
            return kept
    _refuse("damaged")


def _measure(width: int, height: int, limits: UploadsConfig) -> None:
    if width < 1 or height < 1:
        _refuse("damaged")
    if max(width, height) > limits.max_ratio * min(width, height):
        _refuse("too_thin", width=width, height=height, limit=limits.max_ratio)
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        _refuse("too_large", width=width, height=height, limit=limits.max_pixels // 10**6, side=limits.max_side)


def _plain(image: Image.Image, side: int) -> Image.Image:
    """RGB on white, upright, at most `side` pixels on a side."""
    orientation = _orientation(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which a mere conversion would clip to white
        image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        seen.thumbnail((side, side))
        plain = Image.new("RGB", seen.size, "white")
        plain.paste(seen, mask=seen.getchannel("A"))
    else:
        plain = image.convert("RGB")
        plain.thumbnail((side, side))
    return plain.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else plain


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # metadata that cannot be read is no reason to refuse the picture


@contextmanager
def _complete_files_only() -> Iterator[None]:
    """LMDeploy, once imported, lets truncated files pass as grey in the whole process; here they never do."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _write(path: Path, data: bytes) -> None:
    whole = path.with_name(f"{path.name}.{threading.get_ident()}.part")
    whole.write_bytes(data)
    whole.replace(path)


def _refuse(reason: str, **facts: object) -> NoReturn:
    raise ImageRejected(reason=reason, **facts)
