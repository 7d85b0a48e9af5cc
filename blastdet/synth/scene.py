"""Content of a synthetic smear: settings, stain, and the position of each cell. `render` draws the image."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from blastdet.core.errors import ConfigError
from blastdet.core.types import BLAST, PLATELET, RBC, WBC, Scale
from blastdet.synth.cell_rendering import DEBRIS, MAX_REACH_UM, SMUDGE, WHITE_FRACTIONS, WHITE_KINDS, Cell, reach
from blastdet.synth.stains import STAINS, stain_named

PALETTES: tuple[str, ...] = (*STAINS, "random")

LARGEST_PX = 1_000_000_000
"""Largest number of pixels of an image: one gigapixel."""

_BLOCK_UM = 48.0  # wider than the reach of two cells, so that a block only depends on its neighbours
_LAYER = {SMUDGE: 0, RBC: 1, DEBRIS: 2, PLATELET: 3, WBC: 4, BLAST: 4}

Side = Annotated[int, Field(ge=1, le=100_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Density = Annotated[float, Field(ge=0, le=20_000)]


class SynthConfig(BaseModel):
    """Settings of a synthetic smear. Lengths are in µm, densities in cells per mm².

    Parameters
    ----------
    size_wh : (int, int)
        Width and height in pixels; up to one gigapixel.
    mpp : float
        µm/px along y. Along x it is ``mpp * aspect``.
    aspect : float
        Height over width of a round cell. Above 1, the image is compressed horizontally.
    palette : str
        One of `PALETTES`, named after the dataset whose stain it imitates. ``"random"`` draws a new stain.
    stain_jitter : float
        Variation between slides of one laboratory; 0 gives the exact colours.
    red_cells, white_cells, platelets, smudges, debris : float
        Cells per mm². An image of 1600 x 1200 px at 0.1 µm/px shows 0.019 mm².
    blast_fraction : float
        Fraction of the white cells that are blasts.
    rouleaux, overlap : float
        Fraction of the red cells that are stacked in rouleaux, and that may overlap another cell.
    illumination : float
        Largest decrease of brightness across the image, as a fraction.
    blur_um : float
        Sigma of the Gaussian blur.
    noise : float
        Sigma of the sensor noise, in grey levels.
    jpeg_quality : int or None
        30 to 100; ``None``: lossless.

    Raises
    ------
    pydantic.ValidationError
        If a value is out of range; `configure` raises a one-line error instead.

    Examples
    --------
    >>> SynthConfig(mpp=0.2, aspect=1.5).mpp_xy == (0.2 * 1.5, 0.2)
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_wh: tuple[Side, Side] = (1600, 1200)
    mpp: Annotated[float, Field(ge=0.04, le=1.0)] = 0.1
    aspect: Annotated[float, Field(ge=0.5, le=2.0)] = 1.0
    palette: Literal["bccd", "pbc", "all", "chula", "random"] = "bccd"
    stain_jitter: Annotated[float, Field(ge=0, le=3)] = 1.0
    red_cells: Density = 8000
    white_cells: Density = 500
    platelets: Density = 1000
    smudges: Density = 25
    debris: Density = 200
    blast_fraction: Fraction = 0.3
    rouleaux: Fraction = 0.15
    overlap: Fraction = 0.25
    illumination: Annotated[float, Field(ge=0, le=0.6)] = 0.08
    blur_um: Annotated[float, Field(ge=0, le=2)] = 0.12
    noise: Annotated[float, Field(ge=0, le=20)] = 1.5
    jpeg_quality: Annotated[int, Field(ge=30, le=100)] | None = 90

    @model_validator(mode="after")
    def _at_most_a_gigapixel(self) -> Self:
        if self.size_wh[0] * self.size_wh[1] > LARGEST_PX:
            raise ValueError(f"expected at most {LARGEST_PX} pixels")
        return self

    @property
    def mpp_xy(self) -> Scale:
        """µm/px along x and y."""
        return (self.mpp * self.aspect, self.mpp)


def configure(**settings: Any) -> SynthConfig:
    """Create a `SynthConfig`.

    Parameters
    ----------
    **settings
        Parameters of `SynthConfig`.

    Returns
    -------
    SynthConfig

    Raises
    ------
    ConfigError
        If a value is invalid; one line that names the setting and its value.

    Examples
    --------
    >>> configure(mpp=0.2).mpp
    0.2
    """
    try:
        return SynthConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(str(part) for part in first["loc"]) or "size_wh"
        got = settings.get(entry.partition(".")[0])
        raise ConfigError(f"synth: {entry}: {first['msg'].removeprefix('Value error, ')}, got {got!r}") from error


def varied(config: SynthConfig, seed: int) -> SynthConfig:
    """Draw new densities, focus, illumination, noise and JPEG quality, as for another slide.

    Parameters
    ----------
    config : SynthConfig
    seed : int

    Returns
    -------
    SynthConfig

    Examples
    --------
    >>> varied(SynthConfig(), seed=1).noise != SynthConfig().noise
    True
    """
    rng = np.random.default_rng([seed, 77])
    crowd = float(np.exp(rng.normal(0, 0.45)))
    change = {
        "red_cells": min(config.red_cells * crowd, 14_000),
        "white_cells": min(config.white_cells * float(np.exp(rng.normal(0, 0.5))), 4000),
        "platelets": config.platelets * float(np.exp(rng.normal(0, 0.6))),
        "smudges": config.smudges * float(np.exp(rng.normal(0, 0.8))),
        "debris": config.debris * float(np.exp(rng.normal(0, 1.0))),
        "rouleaux": float(rng.uniform(0, 0.5)),
        "overlap": float(rng.uniform(0.05, 0.6)),
        "illumination": float(rng.uniform(0, 0.25)),
        "blur_um": float(rng.uniform(0.04, 0.24)),
        "noise": float(rng.uniform(0.3, 4.0)),
        "jpeg_quality": int(rng.integers(60, 97)),
    }
    return SynthConfig.model_validate(config.model_dump() | change)


class Scene:
    """Cells and stain of one smear. The same config and seed give the same scene.

    Cells are drawn on demand, in square blocks.

    Parameters
    ----------
    config : SynthConfig
    seed : int
    """

    def __init__(self, config: SynthConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        rng = np.random.default_rng([seed, 1])
        self.stain = stain_named(config.palette, rng, config.stain_jitter)
        self.waves = rng.uniform(0, 2 * np.pi, 6)
        self._blocks: dict[tuple[int, int], list[Cell]] = {}

    def block(self, ix: int, iy: int) -> list[Cell]:
        """Cells of one block.

        Blocks have four colours, as a chessboard has two. Cells of a block avoid those of adjacent blocks with a lower
        colour, so that a block depends on a chain of at most four blocks.

        Parameters
        ----------
        ix, iy : int
            Column and row of the block.

        Returns
        -------
        list of Cell
        """
        if (ix, iy) not in self._blocks:
            colour = ix % 2 + 2 * (iy % 2)
            taken: list[Cell] = []
            for jy in (iy - 1, iy, iy + 1):
                for jx in (ix - 1, ix, ix + 1):
                    if jx % 2 + 2 * (jy % 2) < colour:
                        taken += self.block(jx, jy)
            self._blocks[ix, iy] = _place(self.config, self.seed, self.waves, (ix, iy), taken)
        return self._blocks[ix, iy]

    def near(self, box_um: tuple[float, float, float, float]) -> list[Cell]:
        """Cells that may touch a rectangle, in drawing order.

        Parameters
        ----------
        box_um : (float, float, float, float)
            x1, y1, x2, y2 in µm.

        Returns
        -------
        list of Cell

        Examples
        --------
        >>> scene = Scene(SynthConfig(), seed=1)
        >>> len(scene.near((0, 0, 100, 100))) > 50
        True
        """
        x1, y1 = (int(np.floor((c - MAX_REACH_UM - 1) / _BLOCK_UM)) - 1 for c in box_um[:2])
        x2, y2 = (int(np.floor((c + MAX_REACH_UM + 1) / _BLOCK_UM)) + 1 for c in box_um[2:])
        cells = [c for iy in range(y1, y2 + 1) for ix in range(x1, x2 + 1) for c in self.block(ix, iy)]
        return sorted((c for c in cells if _touches(c, box_um)), key=lambda c: (_LAYER[c.kind], c.y, c.x, c.seed))


def _touches(cell: Cell, box_um: tuple[float, float, float, float]) -> bool:
    far = reach(cell) + 2  # the patch ends on whole pixels, at most 1 µm wide
    inside_x = box_um[0] - far < cell.x < box_um[2] + far
    return inside_x and box_um[1] - far < cell.y < box_um[3] + far


class _Occupied:
    """Cells that are already placed in and around one block."""

    def __init__(self, taken: list[Cell]) -> None:
        self._rows = np.empty((max(64, 2 * len(taken)), 4))
        self._n = 0
        for cell in taken:
            self.add(cell)

    def free(self, x: float, y: float, radius: float, kind: int, closeness: float) -> bool:
        """Whether there is space for a cell. Nothing overlaps a white cell.

        `closeness` is the smallest distance from red cells, as a fraction of the sum of the radii.
        """
        rows = self._rows[: self._n]
        distance = np.hypot(rows[:, 0] - x, rows[:, 1] - y)
        if kind in (BLAST, WBC, SMUDGE):
            need: NDArray[np.float64] | float = 0.93
        else:
            white = (rows[:, 3] <= WBC) | (rows[:, 3] == SMUDGE)
            if kind == PLATELET:  # some lie on red cells
                need = np.where(white, 1.0, 0.95 if closeness > 0.95 else 0.0)
            else:
                need = np.where(white, 0.93, closeness)
        return bool((distance >= need * (rows[:, 2] + radius)).all())

    def add(self, cell: Cell) -> None:
        """Add a cell; debris does not occupy space."""
        if cell.kind == DEBRIS:
            return
        if self._n == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._n] = cell.x, cell.y, cell.radius, cell.kind
        self._n += 1


def _place(
    config: SynthConfig, seed: int, waves: NDArray[np.float64], at: tuple[int, int], taken: list[Cell]
) -> list[Cell]:
    rng = np.random.default_rng([seed, 2, at[0] + 2**20, at[1] + 2**20])
    centre = (np.asarray(at) + 0.5) * _BLOCK_UM
    crowd = 1 + 0.3 * np.sin(centre[0] / 61 + waves[0]) * np.sin(centre[1] / 53 + waves[1])
    area = _BLOCK_UM**2 / 1e6
    room, cells = _Occupied(taken), list[Cell]()
    for kind, density in (
        (SMUDGE, config.smudges),
        (WBC, config.white_cells),
        (RBC, config.red_cells * crowd),
        (PLATELET, config.platelets),
        (DEBRIS, config.debris),
    ):
        for _ in range(int(rng.poisson(density * area))):
            _put(config, rng, at, kind, room, cells)
    return cells


def _put(
    config: SynthConfig, rng: np.random.Generator, at: tuple[int, int], kind: int, room: _Occupied, cells: list[Cell]
) -> None:
    """Place one cell at a free position; give up after ten attempts."""
    kind, cell_type, radius = _draw_kind(config, rng, kind)
    may_overlap = rng.random() < (config.overlap if kind == RBC else 0.15)
    chain = kind == RBC and rng.random() < config.rouleaux
    for _ in range(10):
        x, y = (np.asarray(at) + rng.random(2)) * _BLOCK_UM
        closeness = rng.uniform(0.5, 0.95) if may_overlap else rng.uniform(0.96, 1.12)
        previous = cells[-1] if cells and cells[-1].kind == kind else None
        if previous is not None and (chain or (kind in (WBC, BLAST) and rng.random() < 0.2)):
            step = rng.uniform(0.45, 0.95) if chain else rng.uniform(0.94, 1.05)
            angle = rng.uniform(0, 2 * np.pi)
            x = previous.x + step * (radius + previous.radius) * np.cos(angle)
            y = previous.y + step * (radius + previous.radius) * np.sin(angle)
            closeness = 0.3 if chain else closeness
            if abs(x / _BLOCK_UM - at[0] - 0.5) > 0.9 or abs(y / _BLOCK_UM - at[1] - 0.5) > 0.9:
                continue
        if kind == DEBRIS or room.free(x, y, radius, kind, closeness):
            cell = Cell(kind, cell_type, float(x), float(y), radius, int(rng.integers(0, 2**62)))
            room.add(cell)
            cells.append(cell)
            return


def _draw_kind(config: SynthConfig, rng: np.random.Generator, kind: int) -> tuple[int, str, float]:
    """Draw the kind, the cell type and the radius in µm."""
    if kind == RBC:
        return RBC, "", float(np.clip(rng.normal(7.4, 0.42), 6.2, 8.2)) / 2
    if kind == PLATELET:
        return PLATELET, "", rng.uniform(2.0, 3.5) / 2
    if kind == SMUDGE:
        return SMUDGE, "smudge", rng.uniform(6.5, 10.0)
    if kind == DEBRIS:
        return DEBRIS, "", rng.uniform(0.25, 0.8)
    if rng.random() < config.blast_fraction:
        low, high = WHITE_KINDS["blast"].diameter
        return BLAST, "blast", (low + (high - low) * rng.beta(1.6, 2.2)) / 2
    cell_type = str(rng.choice(list(WHITE_FRACTIONS), p=list(WHITE_FRACTIONS.values())))
    return WBC, cell_type, rng.uniform(*WHITE_KINDS[cell_type].diameter) / 2
