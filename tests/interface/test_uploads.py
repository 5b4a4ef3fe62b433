"""The gate for images: what passes is plain and upright, what does not is refused by name, early and cheaply."""

from __future__ import annotations

import io
import random
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from configs.schema import UploadsConfig
from engines.errors import ImageRejected, TooManyImages
from interface.i18n import LANGS
from interface.messages import explain
from interface.uploads import UPRIGHT, Uploads, image_path, thumbnail_path

MIB = 2**20


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "uploads").mkdir()
    return tmp_path / "uploads"


@pytest.fixture
def gate(tmp_path: Path, inbox: Path) -> Uploads:
    return Uploads(UploadsConfig(), inbox, tmp_path / "images")


@pytest.fixture(params=[False, True], ids=["strict", "truncation allowed in the process"])
def any_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """LMDeploy sets this when it is imported; the gate must not care, and must leave it alone."""
    ImageFile.LOAD_TRUNCATED_IMAGES = request.param
    yield
    assert request.param == ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False


def put(inbox: Path, data: bytes, name: str = "x.png") -> Path:
    (inbox / name).write_bytes(data)
    return inbox / name


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, body: bytes = b"", bits: int = 1, colour: int = 0) -> bytes:
    """A PNG by hand: any size in its header, whatever follows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def photo(width: int = 64, height: int = 48) -> Image.Image:
    return Image.effect_noise((width, height), 60).convert("RGB")


def stored(gate: Uploads, path: Path) -> Image.Image:
    part = gate.accept(path)
    with Image.open(part.path) as image:
        image.load()
    assert image.size == (part.width, part.height) and image.mode == "RGB"
    return image


# -- what passes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_each_format_passes_and_its_name_does_not_matter(gate: Uploads, inbox: Path, kind: str) -> None:
    image = stored(gate, put(inbox, encoded(Image.new("RGB", (40, 30), (200, 30, 60)), kind), "x.txt"))
    assert image.size == (40, 30)
    assert max(abs(a - b) for a, b in zip(image.getpixel((20, 15)), (200, 30, 60), strict=True)) < 6


def test_what_is_stored_is_the_picture_to_the_bit_under_its_own_hash(gate: Uploads, inbox: Path) -> None:
    import hashlib

    source = photo()
    part = gate.accept(put(inbox, encoded(source, "PNG")))
    assert part.path == image_path(gate.folder, part.sha256)
    assert hashlib.sha256(part.path.read_bytes()).hexdigest() == part.sha256
    with Image.open(part.path) as image:
        assert image.tobytes() == source.tobytes()
    again = gate.accept(put(inbox, encoded(source, "BMP"), "the same in another file.bmp"))
    assert again == part and len(list(gate.folder.iterdir())) == 2


def test_a_thumbnail_stands_beside_it(gate: Uploads, inbox: Path) -> None:
    part = gate.accept(put(inbox, encoded(photo(1600, 900), "JPEG")))
    with Image.open(thumbnail_path(gate.folder, part.sha256)) as small:
        assert small.size == (480, 270)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright_and_its_metadata_gone(gate: Uploads, inbox: Path, orientation: int) -> None:
    upright = Image.new("RGB", (80, 40), "white")
    upright.paste("red", (0, 0, 20, 20))
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turned = upright.transpose(back.get(orientation, UPRIGHT[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[274] = orientation
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    image = stored(gate, put(inbox, encoded(turned, "JPEG", exif=exif, quality=95)))
    assert image.size == (80, 40) and len(image.getexif()) == 0
    red, white = image.getpixel((8, 8)), image.getpixel((70, 30))
    assert red[0] > 200 and red[1] < 60 and min(white) > 230


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(gate: Uploads, inbox: Path, mode: str) -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 10, 20))
    data = encoded(image.quantize(4) if mode == "P" else image.convert(mode), "PNG")
    result = stored(gate, put(inbox, data))
    assert result.getpixel((2, 2)) == (0, 0, 0) and result.getpixel((15, 15)) == (255, 255, 255)


def test_sixteen_bits_of_grey_keep_their_shades(gate: Uploads, inbox: Path) -> None:
    image = Image.new("I;16", (3, 3))
    for x, value in enumerate((0, 128 * 257, 65535)):
        for y in range(3):
            image.putpixel((x, y), value)
    result = stored(gate, put(inbox, encoded(image, "PNG")))
    assert [result.getpixel((x, 1)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_cmyk_comes_out_in_its_colours(gate: Uploads, inbox: Path) -> None:
    data = encoded(Image.new("RGB", (32, 32), (250, 5, 5)).convert("CMYK"), "JPEG", quality=95)
    red = stored(gate, put(inbox, data)).getpixel((16, 16))
    assert red[0] > 230 and red[1] < 40 and red[2] < 40


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(gate: Uploads, inbox: Path, kind: str) -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("blue", "red", "lime")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    blue = stored(gate, put(inbox, data)).getpixel((12, 12))
    assert blue[2] > 230 and blue[0] < 30


def test_larger_than_is_kept_is_reduced(inbox: Path, tmp_path: Path) -> None:
    gate = Uploads(UploadsConfig(store_side=448), inbox, tmp_path / "images")
    for kind in ("JPEG", "PNG"):
        assert stored(gate, put(inbox, encoded(photo(1800, 900), kind))).size == (448, 224)


# -- what does not ----------------------------------------------------------------------------------------------------

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
REFUSED = {
    "empty": (b"", "empty"),
    "text called .png": (b"hello, I am a PNG", "not_an_image"),
    "html called .png": (b"<html><script>alert(1)</script>", "not_an_image"),
    "svg": (SVG, "foreign"),
    "pdf": (b"%PDF-1.4\n", "foreign"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image"),
    "tiff": (encoded(photo(), "TIFF"), "foreign"),
    "heic": (b"\0\0\0\x18ftypheic" + b"\0" * 40, "foreign"),
    "bomb": (png(60000, 60000, b"\0" * 1000), "too_large"),
    "bomb by its pixels": (png(13000, 13000, b"\0" * 1000), "too_large"),
    "strip": (png(60000, 1, b"\0" * 7501), "too_thin"),
    "no width": (png(0, 5), "damaged"),
    "gif without size": (b"GIF89a\0\0\0\0\0\0\0;", "damaged"),
    "webp header": (b"RIFF\x10\0\0\0WEBPVP8X", "damaged"),
    "png header": (png(10, 10)[:33], "damaged"),
    "large webp": (encoded(Image.new("L", (16383, 4000)), "WEBP", lossless=True, method=0), "too_large"),
    "too many bytes": (b"\xff\xd8\xff" + bytes(20 * MIB), "too_many_bytes"),
}


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name_and_takes_no_memory(gate: Uploads, inbox: Path, case: str, lang: Any) -> None:
    data, reason = REFUSED[case]
    path = put(inbox, data, "holiday.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageRejected) as refusal:
        gate.accept(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024
    assert refusal.value.facts["reason"] == reason and refusal.value.facts["name"] == "holiday.png"
    line = explain(refusal.value, lang).line
    assert "holiday.png" in line and "{" not in line
    assert "SVG" in line or case != "svg"
    assert "60,000" in line or case not in ("bomb", "strip")
    assert not list(gate.folder.iterdir())


@pytest.mark.usefixtures("any_process")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_file_cut_short_is_refused(gate: Uploads, inbox: Path, kind: str, part: float) -> None:
    data = encoded(photo(320, 240), kind)
    with pytest.raises(ImageRejected) as refusal:
        gate.accept(put(inbox, data[: int(len(data) * part)]))
    assert refusal.value.facts["reason"] == "damaged"


@pytest.mark.usefixtures("any_process")
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt"])
def test_texts_and_profiles_are_not_even_unpacked(gate: Uploads, inbox: Path, kind: bytes) -> None:
    """A kilobyte of a PNG's text may unpack to a megabyte; here to more than Pillow takes of one file."""
    bomb = b"comment\0\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"") + zlib.compress(bytes(MIB), 9)
    chunk = struct.pack(">I", len(bomb)) + kind + bomb + struct.pack(">I", zlib.crc32(kind + bomb))
    picture = photo()
    whole = encoded(picture, "PNG")
    after_header = whole.index(b"IDAT") - 4
    path = put(inbox, whole[:after_header] + 100 * chunk + whole[after_header:])
    assert stored(gate, path).tobytes() == picture.tobytes()


def test_a_png_in_countless_pieces_is_refused(gate: Uploads, inbox: Path) -> None:
    empty = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    whole = encoded(photo(), "PNG")
    with pytest.raises(ImageRejected) as refused:
        gate.accept(put(inbox, whole[:33] + 30_000 * empty + whole[33:]))
    assert refused.value.facts["reason"] == "damaged"


def test_a_wrong_checksum_is_refused(gate: Uploads, inbox: Path) -> None:
    data = bytearray(encoded(photo(), "PNG"))
    data[200:204] = b"\0\0\0\0"
    with pytest.raises(ImageRejected, match="damaged"):
        gate.accept(put(inbox, bytes(data)))


def test_nothing_but_a_refusal_comes_out_of_mangled_files(gate: Uploads, inbox: Path) -> None:
    chance = random.Random(1)
    seeds = [encoded(photo(), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF")]
    refused = 0
    for _ in range(500):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            gate.accept(put(inbox, bytes(data)))
        except ImageRejected:
            refused += 1
    assert refused > 50


def test_only_what_was_uploaded_is_read(gate: Uploads, inbox: Path, tmp_path: Path) -> None:
    outside = put(tmp_path, encoded(photo(), "PNG"), "secret.png")
    link = inbox / "link.png"
    link.symlink_to(outside)
    for path in (outside, link, inbox / ".." / "secret.png", inbox, inbox / "nothing.png", Path("/etc/passwd")):
        with pytest.raises(ImageRejected) as refusal:
            gate.accept(path)
        assert refusal.value.facts["reason"] == "gone"


def test_so_many_images_and_no_more(gate: Uploads, inbox: Path) -> None:
    paths = [put(inbox, encoded(Image.new("RGB", (10 + n, 10)), "PNG"), f"{n}.png") for n in range(9)]
    with pytest.raises(TooManyImages) as refusal:
        gate.accept_all(paths)
    assert refusal.value.facts == {"images": 9, "limit": 8}
    assert [part.width for part in gate.accept_all(paths[:8])] == list(range(10, 18))
