"""Folders that look like datasets which may not be redistributed, drawn by code: ALL-IDB1, ALL-IDB2, C-NMC,
AML-Cytomorphology_LMU, Bone-Marrow-Cytomorphology, and folders of cells by type.

Names, sizes, suffixes and text files are those of the real sets; the images are discs, red cells and
nucleated ones, on a plain ground.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from math import hypot
from pathlib import Path

from PIL import Image, ImageDraw

SMALL_WH, LARGE_WH, ODD_WH = (1712, 1368), (2592, 1944), (1226, 652)
CELL_WIDTH = 170  # px, about what a blast of ALL-IDB1 measures
RED_WIDTH = 107  # px, what a red cell of 7.5 µm measures at 0.07 µm/px

GROUND, RED, CELL, NUCLEUS = (236, 230, 226), (214, 168, 160), (196, 160, 200), (92, 44, 124)

Points = Sequence[tuple[int, int]]


def allidb1_stems() -> list[str]:
    """The 108 names: 49 with blasts (_1), 59 healthy (_0)."""
    with_blasts = {*range(1, 34), *range(48, 64)}
    return [f"Im{n:03d}_{int(n in with_blasts)}" for n in range(1, 109)]


def allidb1_size_wh(stem: str) -> tuple[int, int]:
    """Size of the real image of that name."""
    number = int(stem[2:5])
    return ODD_WH if number == 37 else SMALL_WH if number <= 33 else LARGE_WH


@lru_cache(maxsize=64)
def _drawn(size_wh: tuple[int, int], points: tuple[tuple[int, int], ...], width: int, suffix: str) -> bytes:
    image = Image.new("RGB", size_wh, GROUND)
    pen = ImageDraw.Draw(image)
    if min(size_wh) > 4 * RED_WIDTH:  # a field, not a crop
        for x, y in _red_cells(size_wh, points):
            _disc(pen, x, y, RED_WIDTH / 2, RED)
    for x, y in points:
        _disc(pen, x, y, width / 2, CELL)
        _disc(pen, x, y, width * 0.42, NUCLEUS)
    stream = BytesIO()
    image.save(stream, {"jpg": "JPEG", "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP"}[suffix])
    return stream.getvalue()


def _red_cells(size_wh: tuple[int, int], points: Points) -> Iterator[tuple[int, int]]:
    """A grid with every fifth place left empty, clear of the nucleated cells."""
    step, clear = RED_WIDTH + 25, (CELL_WIDTH + RED_WIDTH) / 2 + 10
    for row, y in enumerate(range(step, size_wh[1] - step, step)):
        for column, x in enumerate(range(step, size_wh[0] - step, step)):
            if (row + 2 * column) % 5 and all(hypot(x - px, y - py) > clear for px, py in points):
                yield x, y


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def image_file(
    file: Path, size_wh: tuple[int, int], points: Points = (), width: int = CELL_WIDTH, comment: str = ""
) -> Path:
    """A picture with a cell at each point. A JPEG may carry a comment, so that no two files have equal bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data = _drawn(size_wh, tuple(points), width, file.suffix.lower().lstrip("."))
    if comment:
        text = comment.encode()
        data = data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:]
    file.write_bytes(data)
    return file


def allidb1(
    root: Path,
    stems: Iterable[str],
    centroids: Mapping[str, Points | bytes] | None = None,
    *,
    folders: tuple[str, str] = ("im", "xyc"),
    separator: str = "\t",
) -> Path:
    """A copy of ALL-IDB1: an image for each stem and a ``.xyc`` with its centroids (or with the bytes given)."""
    for stem in stems:
        content = (centroids or {}).get(stem, ())
        points = () if isinstance(content, bytes) else tuple(content)
        text = content if isinstance(content, bytes) else b"".join(f"{x}{separator}{y}\n".encode() for x, y in points)
        image_file(root / folders[0] / f"{stem}.jpg", allidb1_size_wh(stem), points, comment=stem)
        (root / folders[1]).mkdir(parents=True, exist_ok=True)
        (root / folders[1] / f"{stem}.xyc").write_bytes(text)
    return root


def allidb2(root: Path, n_blasts: int = 3, n_healthy: int = 3, folder: str = "img") -> Path:
    """A copy of ALL-IDB2: crops ``ImNNN_Y.tif`` of 257 x 257 px, one cell in the middle of each, blasts first."""
    for number in range(1, n_blasts + n_healthy + 1):
        stem = f"Im{number:03d}_{int(number <= n_blasts)}"
        image_file(root / folder / f"{stem}.tif", (257, 257), [(128, 128)])
    return root


def cnmc(root: Path, folds: int = 3, subjects: int = 2, cells: int = 2) -> Path:
    """A copy of C-NMC 2019: ``fold_F/{all,hem}/UID_SUBJECT_CELL_REPEAT_CLASS.bmp`` of 450 x 450 px."""
    for fold in range(folds):
        for subject in range(fold * subjects + 1, (fold + 1) * subjects + 1):
            for cell in range(1, cells + 1):
                for kind, letter in (("all", ""), ("hem", "H")):
                    name = f"UID_{letter}{subject}_{cell}_1_{kind}.bmp"
                    image_file(root / f"fold_{fold}" / kind / name, (450, 450), [(225, 225)], width=250)
    return root


def aml_lmu(root: Path, codes: Iterable[str] = ("MYO", "NGS", "PMB")) -> Path:
    """A copy of AML-Cytomorphology_LMU: ``CODE/CODE_0001.tiff`` of 400 x 400 px, one cell each."""
    for code in codes:
        image_file(root / code / f"{code}_0001.tiff", (400, 400), [(200, 200)])
    return root


def bone_marrow(root: Path, codes: Iterable[str] = ("BLA", "EBO", "PLM")) -> Path:
    """A copy of Bone-Marrow-Cytomorphology: ``CODE/0001-1000/CODE_00001.jpg`` of 250 x 250 px, one cell each."""
    for code in codes:
        image_file(root / code / "0001-1000" / f"{code}_00001.jpg", (250, 250), [(125, 125)])
    return root


def cell_folders(root: Path, names: Mapping[str, int]) -> Path:
    """A folder of cells by type: name of a subfolder -> number of images."""
    for name, number in names.items():
        for i in range(number):
            image_file(root / name / f"{i}.jpg", (120, 120), [(60, 60)], width=80, comment=f"{name} {i}")
    return root
