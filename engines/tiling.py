"""How InternVL2 sees an image: as square tiles in the grid that is closest to its shape, and a thumbnail of the whole.

Plain arithmetic but for `pixels`. Knows no model and no conversation. Source: `dynamic_preprocess` in OpenGVLab's
InternVL, internvl_chat/internvl/train/dataset.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

TILE = 448
"""Pixels of a tile's side."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def grid(width: int, height: int, max_tiles: int, tile: int = TILE) -> tuple[int, int]:
    """Columns and rows, of at most `max_tiles` tiles, for an image of `width` x `height` pixels."""
    sizes = range(1, max(1, max_tiles) + 1)
    candidates = [(columns, rows) for columns in sizes for rows in sizes if columns * rows <= len(sizes)]
    best, least = (1, 1), float("inf")
    for columns, rows in sorted(candidates, key=lambda one: one[0] * one[1]):
        difference = abs(width / height - columns / rows)
        # Of grids with the same shape the finer one, while it does not blow the image up too much.
        finer = difference == least and width * height > 0.5 * tile * tile * columns * rows
        if difference < least or finer:
            best, least = (columns, rows), difference
    return best


def tile_count(width: int, height: int, max_tiles: int, tile: int = TILE) -> int:
    """Tiles that the model sees of an image; with more than one comes the thumbnail, which is counted."""
    columns, rows = grid(width, height, max_tiles, tile)
    return with_thumbnail(columns * rows)


def with_thumbnail(tiles: int) -> int:
    """The most tiles that an image may take where it may be cut into `tiles`."""
    return tiles + 1 if tiles > 1 else 1


def share(max_tiles: int, images: int) -> int:
    """The `max_tiles` of each of so many images, for all together to take no more than one at `max_tiles` may.

    At least 1, even where more images than `with_thumbnail(max_tiles)` do not fit at all.
    """
    fitting = (each for each in range(max_tiles, 1, -1) if images * with_thumbnail(each) <= with_thumbnail(max_tiles))
    return next(fitting, 1)


def pixels(image: Image, max_tiles: int, tile: int = TILE) -> Tensor:
    """What the model is shown of an image: float32 [tiles, 3, tile, tile], normalized, row by row, thumbnail last.

    The image is taken as it is: it has been checked and turned upright when it was uploaded. Raises OSError for one
    whose file is broken.
    """
    from transformers import GotOcr2ImageProcessorPil

    processor = GotOcr2ImageProcessorPil(
        size={"height": tile, "width": tile},
        image_mean=MEAN,
        image_std=STD,
        crop_to_patches=True,
        min_patches=1,
        max_patches=max(1, max_tiles),
    )
    return processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]


def widest(max_tiles: int) -> tuple[int, int]:
    """The pixels of an image that is cut into as many tiles as may be."""
    shapes = [(columns * TILE, rows * TILE) for columns in range(1, 13) for rows in range(1, 13)]
    return max(shapes, key=lambda shape: tile_count(shape[0], shape[1], max_tiles))
