"""Tiles of an image at halved scales, as viewers of large images ask for them."""

from __future__ import annotations

from blastdet.core.errors import ImageError
from blastdet.core.types import RGB, WidthHeight
from blastdet.imaging.io import Source, resize

TILE_PX = 512
"""Side of a tile in pixels; those at the right and lower edge are smaller."""

_BLOCK = 8  # tiles a side
_LEAST = 0.001  # scale at which a `Source` is read; a thin image may be so long that a tile of all of it needs less


def highest_zoom(size_wh: WidthHeight) -> int:
    """The zoom at which a tile shows the pixels of the image; at zoom 0 one tile shows all of it.

    Examples
    --------
    >>> highest_zoom((512, 300)), highest_zoom((513, 300)), highest_zoom((4000, 3000))
    (0, 1, 3)
    """
    return max(0, (-(-max(size_wh) // TILE_PX) - 1).bit_length())


def tile_count(size_wh: WidthHeight, zoom: int) -> WidthHeight:
    """Columns and rows of tiles at a zoom.

    Examples
    --------
    >>> tile_count((4000, 3000), 3), tile_count((4000, 3000), 0)
    ((8, 6), (1, 1))
    """
    side = TILE_PX << (highest_zoom(size_wh) - zoom)
    return -(-size_wh[0] // side), -(-size_wh[1] // side)


def tile_of(source: Source, zoom: int, x: int, y: int) -> RGB:
    """One tile, uint8 (h, w, 3).

    Raises
    ------
    ImageError
        If the image has no such tile.
    """
    top = highest_zoom(source.size_wh)
    columns, rows = tile_count(source.size_wh, zoom) if 0 <= zoom <= top else (0, 0)
    if not (0 <= x < columns and 0 <= y < rows):
        raise ImageError(f"tile: expected zoom 0 to {top} and a place on the image, got {zoom}/{x}/{y}")
    side = TILE_PX << (top - zoom)
    width, height = source.size_wh
    box = (x * side, y * side, min((x + 1) * side, width), min((y + 1) * side, height))
    scale = 1 / (1 << (top - zoom))
    # never less than a pixel: the last column of a reduced image may be thinner
    sx, sy = max(scale, 1 / (box[2] - box[0])), max(scale, 1 / (box[3] - box[1]))
    wanted = round((box[2] - box[0]) * sx), round((box[3] - box[1]) * sy)
    rgb = source.read((float(box[0]), float(box[1]), float(box[2]), float(box[3])), (max(sx, _LEAST), max(sy, _LEAST)))
    return rgb if (rgb.shape[1], rgb.shape[0]) == wanted else resize(rgb, wanted)


def block_around(size_wh: WidthHeight, zoom: int, x: int, y: int) -> list[tuple[int, int]]:
    """Places of the tiles that are made together with one of a large image that is decoded as a whole.

    Examples
    --------
    >>> block_around((12000, 4300), 5, 17, 3)[:3], len(block_around((12000, 4300), 5, 17, 3))
    ([(16, 0), (17, 0), (18, 0)], 64)
    """
    columns, rows = tile_count(size_wh, zoom)
    left, top = x - x % _BLOCK, y - y % _BLOCK
    return [(i, j) for j in range(top, min(top + _BLOCK, rows)) for i in range(left, min(left + _BLOCK, columns))]
