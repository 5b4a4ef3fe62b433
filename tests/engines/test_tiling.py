"""Images are cut as InternVL2's published code cuts them, to the last bit."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from engines.tiling import grid, pixels, share, tile_count, with_thumbnail
from tests.internvl2_checkpoint import write_image
from tests.internvl2_reference import reference_grid, reference_pixels

GOLDEN = {  # width, height, max_tiles: columns, rows
    (448, 448, 12): (1, 1),
    (800, 600, 12): (4, 3),
    (800, 600, 6): (3, 2),
    (1792, 1344, 12): (4, 3),
    (1000, 1000, 12): (3, 3),  # of 1x1, 2x2 and 3x3 the finest
    (600, 600, 12): (1, 1),  # which it is too small for
    (4000, 300, 12): (12, 1),
    (300, 4000, 6): (1, 6),
    (4000, 3000, 1): (1, 1),
}


@pytest.mark.parametrize(("asked", "expected"), GOLDEN.items())
def test_grids_that_are_known(asked: tuple[int, int, int], expected: tuple[int, int]) -> None:
    assert grid(*asked) == expected
    columns, rows = expected
    assert tile_count(*asked) == columns * rows + (columns * rows > 1)


def test_the_grid_is_the_published_rules_at_every_size() -> None:
    dice = random.Random(3)
    for _ in range(2000):
        width, height, most = dice.randint(1, 5000), dice.randint(1, 5000), dice.randint(1, 12)
        assert grid(width, height, most) == reference_grid(width, height, most), (width, height, most)
    for columns in range(1, 13):
        for rows in range(1, 13):
            for scale in (56, 100, 224, 317, 448, 900):
                size = columns * scale, rows * scale
                assert grid(*size, 12) == reference_grid(*size, 12)


def cases() -> list[tuple[int, int, int]]:
    dice = random.Random(5)
    ratios = [(1, 1), (4, 3), (3, 4), (16, 9), (9, 16), (2, 1), (1, 3), (5, 2), (12, 1), (1, 12), (6, 5)]
    sizes = [(a * scale, b * scale) for a, b in ratios for scale in (9, 56, 150)]
    sizes += [(dice.randint(28, 1400), dice.randint(28, 1400)) for _ in range(27)]
    return [(*size, most) for size in sizes for most in (12, 6, 2, 1)]


def test_pixels_are_the_published_ones_bit_for_bit(tmp_path: Path) -> None:
    assert len(cases()) >= 200
    for number, (width, height, most) in enumerate(cases()):
        # A quarter of the published side: the same rule, a sixteenth of the work.
        file = write_image(tmp_path / "image.bmp", width, height, seed=number)
        with Image.open(file) as image:
            shown, expected = pixels(image, most, 112), reference_pixels(image, most, 112)
        assert shown.dtype == torch.float32 and shown.shape == (tile_count(width, height, most, 112), 3, 112, 112)
        assert torch.equal(shown, expected), (width, height, most)


@pytest.mark.parametrize("size", [(448, 448), (1300, 700), (500, 2000), (1234, 1234)])
@pytest.mark.parametrize("most", [12, 5])
def test_pixels_at_the_published_size(tmp_path: Path, size: tuple[int, int], most: int) -> None:
    file = write_image(tmp_path / "image.png", *size)
    with Image.open(file) as image:
        assert torch.equal(pixels(image, most), reference_pixels(image, most))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "image.tiff"
    with Image.open(write_image(tmp_path / "image.png", 300, 200)) as image:
        image.convert(mode).save(file)
    with Image.open(file) as image:
        assert torch.equal(pixels(image, 4, 112), reference_pixels(image, 4, 112))


def test_several_images_take_no_more_than_one_may() -> None:
    for most in range(1, 41):
        for images in range(1, with_thumbnail(most) + 1):
            each = share(most, images)
            assert 1 <= each <= most and images * with_thumbnail(each) <= with_thumbnail(most)
            if each < most:
                assert images * with_thumbnail(each + 1) > with_thumbnail(most), "and no less than they could"
    assert [share(12, images) for images in (0, 1, 2, 3, 4, 5, 13, 14)] == [12, 12, 5, 3, 2, 1, 1, 1]
    assert share(1, 1) == share(0, 1) == 1


def test_the_arithmetic_imports_nothing_heavy() -> None:
    program = "import sys, engines.tiling, engines.prompt; print({'torch', 'PIL', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
