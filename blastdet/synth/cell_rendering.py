"""Rendering of single cells as optical density. `scene` places them and `render` composes the image.

Every cell is drawn completely, on its own patch and with its own random generator, so that it looks the same whichever
part of a smear is rendered. Shapes are signed distances (µm, negative inside) that are distorted by noise. Amounts of
stain add up (Beer-Lambert law).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import BLAST, PLATELET, RBC, WBC, Scale
from blastdet.synth.stains import Stain

Array = NDArray[np.float32]

OD_UNIT = 2048
"""Optical density 1.0 in the integer units of a patch. The sum of integers does not depend on the order."""

SMUDGE, DEBRIS = 4, 5
"""Kinds besides the four classes: smudge cells (ignored in the ground truth) and debris (not in the ground truth)."""

_COARSEST_MPP = 0.17  # images above this are drawn finer and averaged, so that chromatin shows no aliasing

MAX_REACH_UM = 22.0
"""Largest distance in µm of any part of a cell, halo included, from its centre."""


@dataclass(frozen=True)
class Cell:
    """One object on the smear.

    Parameters
    ----------
    kind : int
        A class of `blastdet.core.types`, `SMUDGE` or `DEBRIS`.
    cell_type : str
        Key of `WHITE_KINDS`, ``"smudge"`` or ``""``.
    x, y : float
        Centre in µm.
    radius : float
        In µm.
    seed : int
        Seed of its appearance.
    """

    kind: int
    cell_type: str
    x: float
    y: float
    radius: float
    seed: int


class Patch(NamedTuple):
    """A rendered cell.

    Parameters
    ----------
    x, y : int
        Top left pixel in the image.
    density : int16 (h, w, 3)
        Optical density of each channel, in units of `OD_UNIT`.
    mask : bool (h, w)
        Pixels inside the outline.
    cover : int16 (h, w) or None
        By how much it hides cells below, from 0 to 256; ``None``: not at all.
    """

    x: int
    y: int
    density: NDArray[np.int16]
    mask: NDArray[np.bool_]
    cover: NDArray[np.int16] | None


class _Grid:
    """Coordinates of one patch in µm relative to the centre of the cell, and noise for outlines and texture."""

    def __init__(self, u: Array, v: Array, noise: dict[str, Array], rng: np.random.Generator) -> None:
        self.u, self.v, self.rng = u, v, rng
        self._noise = noise
        self.shape = (v.shape[0], u.shape[1])

    def noise(self, name: str) -> Array:
        """A random section of one noise field, as large as the patch (a read-only view)."""
        whole = self._noise[name]
        y, x = (int(self.rng.integers(0, whole.shape[i] - self.shape[i] + 1)) for i in (0, 1))
        return whole[y : y + self.shape[0], x : x + self.shape[1]]

    def ellipse(self, radius: float, stretch: float, centre: tuple[float, float] = (0, 0)) -> Array:
        """Signed distance from an ellipse with the area of a disc of `radius`, at a random angle."""
        angle = self.rng.uniform(0, np.pi)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        u, v = self.u - np.float32(centre[0]), self.v - np.float32(centre[1])
        a, b = np.float32(radius * np.sqrt(stretch)), np.float32(radius / np.sqrt(stretch))
        p, q = (c * u + s * v) / a, (c * v - s * u) / b
        return np.asarray(np.float32(radius) * (np.sqrt(p * p + q * q) - np.float32(1)), np.float32)


@lru_cache(maxsize=8)
def _noise_fields(mpp: Scale) -> dict[str, Array]:
    """Noise of unit variance: ``bend`` for outlines, ``clump`` and ``fine`` for chromatin, with a grain in µm."""
    side = [int(4 * MAX_REACH_UM / m) + 64 for m in mpp]
    rng = np.random.default_rng(20021)
    fields = {}
    for name, grain in (("bend", 1.5), ("clump", 0.42), ("fine", 0.2)):
        white = rng.standard_normal((side[1], side[0])).astype(np.float32)
        field = cv2.GaussianBlur(white, (0, 0), sigmaX=max(grain / mpp[0], 0.4), sigmaY=max(grain / mpp[1], 0.4))
        field = (field - field.mean()) / field.std()
        field.setflags(write=False)
        fields[name] = np.asarray(field, np.float32)
    return fields


def _inside(distance: Array, soft: float) -> Array:
    """1 inside an outline, 0 outside, with a linear ramp of 2 * `soft` µm between."""
    return np.asarray(np.clip(np.float32(0.5) - distance / np.float32(2 * soft), 0, 1), np.float32)


def _bump(distance: Array, at: float, width: float) -> Array:
    return np.asarray(np.exp(-np.square((distance - np.float32(at)) / np.float32(width))), np.float32)


def _at_least_0(values: NDArray[np.floating]) -> Array:
    return np.asarray(np.maximum(values, np.float32(0)), np.float32)


def _power_bump(t: Array, power: float) -> Array:
    return np.asarray(np.exp(-np.power(t, np.float32(power))), np.float32)


def reach(cell: Cell) -> float:
    """Largest distance in µm of a cell, halo included, from its centre; at most `MAX_REACH_UM`."""
    return min(cell.radius * (2.1 if cell.kind == SMUDGE else 1.5) + 1.2, MAX_REACH_UM)


def draw(cell: Cell, stain: Stain, mpp: Scale) -> Patch:
    """Render one cell as optical density.

    Returns
    -------
    Patch
        Position in pixels of the image, and optical density. The same arguments give the same patch.

    Examples
    --------
    >>> from blastdet.synth.stains import STAINS
    >>> patch = draw(Cell(RBC, "", 20.0, 20.0, 3.7, seed=1), STAINS["bccd"], (0.2, 0.2))
    >>> patch.density.shape == (*patch.mask.shape, 3)
    True
    """
    fine = max(1, int(np.ceil(max(mpp) / _COARSEST_MPP)))
    step = (mpp[0] / fine, mpp[1] / fine)
    far = reach(cell)
    left, top = (int(np.floor((c - far) / m)) for c, m in zip((cell.x, cell.y), mpp, strict=True))
    width, height = (int(np.ceil(2 * far / m)) + 1 for m in mpp)
    u = (left * mpp[0] - cell.x + (np.arange(width * fine) + 0.5) * step[0]).astype(np.float32)[None, :]
    v = (top * mpp[1] - cell.y + (np.arange(height * fine) + 0.5) * step[1]).astype(np.float32)[:, None]
    grid = _Grid(u, v, _noise_fields(step), np.random.default_rng(cell.seed))
    amounts, colours, outline, covers = _PAINTERS[cell.kind](grid, cell, stain)
    if fine > 1:
        amounts, outline = (_shrink(a, (width, height)) for a in (amounts, outline))
    density = (amounts.reshape(-1, amounts.shape[2]) @ colours).reshape(height, width, 3)
    cover = np.rint(outline * 256).astype(np.int16) if covers else None
    return Patch(left, top, np.rint(density * OD_UNIT).astype(np.int16), outline >= 0.5, cover)


def _shrink(array: Array, size_wh: tuple[int, int]) -> Array:
    small = cv2.resize(array, size_wh, interpolation=cv2.INTER_AREA)
    return np.asarray(small[:, :, None] if array.ndim == 3 and small.ndim == 2 else small, np.float32)


_Painted = tuple[Array, Array, Array, bool]
"""Amount of each of k stains (h, w, k), their density (k, 3), coverage (h, w), and whether cells below are hidden."""


def _red_cell(grid: _Grid, cell: Cell, stain: Stain) -> _Painted:
    rng, r = grid.rng, cell.radius
    odd = rng.random() < stain.odd_red
    stretch = rng.uniform(1.25, 1.8) if odd and rng.random() < 0.6 else 1 + abs(rng.normal(0, 0.11))
    bend = grid.noise("bend")
    d = grid.ellipse(r, stretch) + np.float32(rng.uniform(0.04, 0.32)) * bend
    if odd and rng.random() < 0.3:  # crenated
        d = d + np.float32(0.16) * grid.noise("clump")
    body = _inside(d, 0.16)
    t = _at_least_0(1 + d / np.float32(r))
    pallor = stain.pallor * rng.uniform(0.3, 1.35) * (0.2 if odd and rng.random() < 0.4 else 1)
    dent = _at_least_0((t + np.float32(0.05) * bend) / np.float32(rng.uniform(0.32, 0.66)))
    form = 1 - np.float32(min(pallor, 0.92)) * _power_bump(dent, rng.uniform(1.8, 4.5))
    if odd and rng.random() < 0.25:  # target cell
        form = form + np.float32(0.6 * pallor) * _bump(t, 0, 0.2)
    rim = np.float32(stain.edge * rng.uniform(0.4, 1.3)) * _bump(d, -0.22, 0.2)
    halo = np.float32(stain.halo * rng.uniform(0.3, 1.2)) * _bump(d, 0.42, 0.3)
    if rng.random() < stain.dots:  # a bright dot with a dark rim: refraction by a bubble or a particle
        away, turn = r * rng.uniform(0, 0.6), rng.uniform(0, 2 * np.pi)
        dot = _union(grid, [(away * np.cos(turn), away * np.sin(turn), rng.uniform(0.15, 0.45))])
        form = form + np.float32(rng.uniform(0.3, 1)) * (_bump(dot, 0.15, 0.15) - np.float32(1.4) * _inside(dot, 0.12))
    amount = np.float32(rng.uniform(0.8, 1.15)) * (body * form + rim - halo)
    amount *= 1 + np.float32(0.03) * grid.noise("fine") + np.float32(0.06) * bend
    return amount[:, :, None], stain.density("red")[None, :], body, False


@dataclass(frozen=True)
class WhiteKind:
    """Appearance of one type of white cell.

    Parameters
    ----------
    diameter : (float, float)
        Range in µm.
    nucleus : str
        ``"round"``, or a shape of `_lobes`.
    size : (float, float)
        Range of the radius of the nucleus, or of its lobes, as a fraction of the radius of the cell.
    clump, fine : float
        Contrast of coarse and fine chromatin.
    blue : (float, float)
        Range of the basophilia of the cytoplasm.
    granules : str
        ``""``, ``"dust"``, ``"eosin"`` or ``"dark"``.
    nucleoli : int
        Largest number of nucleoli.
    """

    diameter: tuple[float, float]
    nucleus: str
    size: tuple[float, float]
    clump: float
    fine: float
    blue: tuple[float, float]
    granules: str = ""
    nucleoli: int = 0


WHITE_KINDS: dict[str, WhiteKind] = {
    "neutrophil": WhiteKind((12, 15), "lobes", (0.33, 0.41), 0.27, 0.1, (0.0, 0.1), "dust"),
    "band_neutrophil": WhiteKind((12, 15), "band", (0.30, 0.36), 0.27, 0.1, (0.0, 0.15), "dust"),
    "eosinophil": WhiteKind((12, 15.5), "two", (0.38, 0.46), 0.25, 0.1, (0.0, 0.1), "eosin"),
    "basophil": WhiteKind((10.5, 14), "two", (0.42, 0.5), 0.1, 0.05, (0.1, 0.3), "dark"),
    "lymphocyte": WhiteKind((8, 10.5), "round", (0.83, 0.93), 0.25, 0.08, (0.5, 0.9)),
    "large_lymphocyte": WhiteKind((10.5, 15), "round", (0.62, 0.76), 0.25, 0.08, (0.3, 0.6)),
    "monocyte": WhiteKind((14, 20), "kidney", (0.38, 0.46), 0.24, 0.13, (0.4, 0.7), "dust"),
    "blast": WhiteKind((10, 18), "round", (0.84, 0.95), 0.08, 0.11, (0.75, 1.1), "", 3),
}
"""Diameters from Bain, Blood Cells. Blasts: from ALL-L1 (10-12 µm) to ALL-L2 and myeloblasts (up to 18 µm)."""

WHITE_FRACTIONS = {
    "neutrophil": 0.55, "band_neutrophil": 0.04, "eosinophil": 0.03, "basophil": 0.01,
    "lymphocyte": 0.22, "large_lymphocyte": 0.08, "monocyte": 0.07,
}  # fmt: skip
"""Differential of healthy blood, as fractions."""


def _white_cell(grid: _Grid, cell: Cell, stain: Stain) -> _Painted:
    rng, r, kind = grid.rng, cell.radius, WHITE_KINDS[cell.cell_type]
    bend = grid.noise("bend")
    d = grid.ellipse(r, 1 + abs(rng.normal(0, 0.09))) + np.float32(rng.uniform(0.12, 0.35)) * bend
    body = _inside(d, 0.18)
    dn, inner = _nucleus(grid, cell, kind)
    nucleus = _inside(dn + np.float32(0.12) * grid.noise("clump"), 0.14) * body
    clumps, grain = grid.noise("clump"), grid.noise("fine")
    chromatin = 1 + np.float32(kind.clump) * np.tanh(clumps * np.float32(1.3)) + np.float32(kind.fine) * grain
    chromatin += np.float32(0.12) * _bump(dn, -0.15, 0.25)
    strength = rng.uniform(0.6, 0.88) if kind.nucleoli else rng.uniform(0.82, 1.08)
    chromatin = np.float32(strength) * chromatin * (1 - inner)
    blue = rng.uniform(*kind.blue)
    thick = 1 + np.float32(0.1) * grain + np.float32(0.12) * clumps + np.float32(0.35 * blue) * _bump(d, -0.3, 0.5)
    plasm = (body - np.float32(0.75) * nucleus) * thick
    granules, colour = _granules(grid, kind, stain)
    granules = granules * body * (1 - np.float32(0.75 if kind.granules != "dark" else 0.2) * nucleus)
    amounts = np.stack(
        [nucleus * chromatin, plasm * np.float32(blue), plasm * np.float32(max(0, 1 - blue)), granules], axis=2
    )
    colours = np.stack([stain.density("nucleus"), stain.density("blue"), stain.density("pale"), colour])
    return np.asarray(amounts, np.float32), colours, body, True


def _nucleus(grid: _Grid, cell: Cell, kind: WhiteKind) -> tuple[Array, Array]:
    """Signed distance of the nucleus, and its local reduction of density (nucleoli)."""
    rng, r = grid.rng, cell.radius
    size = rng.uniform(*kind.size) * r
    pale = np.zeros(grid.shape, np.float32)
    bend = np.float32(0.14) * grid.noise("bend")
    if kind.nucleus != "round":
        return _union(grid, _lobes(rng, kind.nucleus, r, size)) + bend, pale
    slack = (r - size) * 0.85
    angle = rng.uniform(0, 2 * np.pi)
    centre = (slack * np.cos(angle), slack * np.sin(angle))
    d = grid.ellipse(size, rng.uniform(1, 1.16), centre) + np.float32(rng.uniform(0.5, 2.2)) * bend
    if rng.random() < (0.35 if kind.nucleoli else 0.2):  # a cleft
        towards = rng.uniform(0, 2 * np.pi)
        notch = (centre[0] + 1.12 * size * np.cos(towards), centre[1] + 1.12 * size * np.sin(towards))
        d = np.maximum(d, -_union(grid, [(*notch, size * rng.uniform(0.2, 0.42))]))
    for _ in range(int(rng.integers(0, kind.nucleoli + 1, 2).max()) if kind.nucleoli else 0):
        at, out = rng.uniform(0, 2 * np.pi), size * np.sqrt(rng.uniform(0, 0.4))
        spot = _union(grid, [(centre[0] + out * np.cos(at), centre[1] + out * np.sin(at), rng.uniform(0.5, 1.05))])
        pale = np.maximum(pale, np.float32(rng.uniform(0.2, 0.42)) * _inside(spot + 2 * bend, 0.3))
    return d, pale


def _lobes(rng: np.random.Generator, form: str, r: float, size: float) -> list[tuple[float, float, float]]:
    """Discs ``(x, y, radius)`` whose union is a segmented, band-shaped or kidney-shaped nucleus."""
    turn = rng.uniform(0, 2 * np.pi)
    n, radius, span, thread = {
        "lobes": (int(rng.integers(3, 6)), 0.46, rng.uniform(3.6, 5.0), 0.12),
        "two": (2, 0.44, rng.uniform(1.9, 2.6), 0.2),
        "band": (9, 0.48, rng.uniform(3.2, 4.3), 0.0),
        "kidney": (6, 0.36, rng.uniform(1.7, 2.9), 0.0),
    }[form]
    angles = turn + np.linspace(0, span, n) + (rng.normal(0, 0.12, n) if thread else 0)
    radii = size * (rng.uniform(0.78, 1.1, n) if thread else rng.uniform(0.94, 1.04, n))
    if form == "lobes":
        radii *= (4 / n) ** 0.4
    far = np.full(n, radius * r) * (rng.uniform(0.8, 1.12, n) if thread else 1)
    x, y = far * np.cos(angles), far * np.sin(angles)
    discs = list(zip(x, y, radii, strict=True))
    for i in range(n - 1 if thread else 0):  # the threads between lobes
        for part in (0.3, 0.5, 0.7):
            discs.append((x[i] + part * (x[i + 1] - x[i]), y[i] + part * (y[i + 1] - y[i]), thread * r))
    return [(float(a), float(b), float(c)) for a, b, c in discs]


def _union(grid: _Grid, discs: list[tuple[float, float, float]]) -> Array:
    """Signed distance of the union of discs, with smooth transitions."""
    distances: list[Array] = []
    for x, y, r in discs:
        u, v = grid.u - np.float32(x), grid.v - np.float32(y)
        distances.append(np.asarray(np.sqrt(u * u + v * v) - np.float32(r), np.float32))
    if len(distances) == 1:
        return distances[0]
    melt = np.float32(0.22)
    near = np.asarray(np.minimum.reduce(distances), np.float32)
    total = sum(np.exp((near - d) / melt) for d in distances)
    return np.asarray(near - melt * np.log(total), np.float32)


def _granules(grid: _Grid, kind: WhiteKind, stain: Stain) -> tuple[Array, Array]:
    if kind.granules == "eosin":
        return np.clip(
            grid.noise("clump") * np.float32(0.5) + grid.noise("fine") * np.float32(0.6) + np.float32(0.8), 0, 1.2
        ), stain.density("eosin")
    if kind.granules == "dark":
        return np.clip(grid.noise("clump") * np.float32(1.6) - np.float32(0.2), 0, 1.1), stain.density("nucleus")
    if kind.granules == "dust":
        strength = np.float32(grid.rng.uniform(0.06, 0.24))
        return strength * np.clip(grid.noise("fine") - np.float32(0.3), 0, 1.5), stain.density("platelet")
    return np.zeros(grid.shape, np.float32), stain.density("platelet")


def _platelet(grid: _Grid, cell: Cell, stain: Stain) -> _Painted:
    rng = grid.rng
    d = grid.ellipse(cell.radius, rng.uniform(1, 1.5)) + np.float32(0.22) * grid.noise("bend")
    d = d + np.float32(0.12) * grid.noise("clump")
    body = _inside(d, 0.18)
    core = 0.55 + np.float32(0.75) * _inside(d + np.float32(0.35 * cell.radius), 0.45)
    amount = np.float32(rng.uniform(0.4, 0.95)) * body * core * (1 + np.float32(0.25) * np.tanh(grid.noise("fine")))
    return amount[:, :, None], stain.density("platelet")[None, :], body, False


def _smudge(grid: _Grid, cell: Cell, stain: Stain) -> _Painted:
    rng, r = grid.rng, cell.radius
    bend, clump = grid.noise("bend"), grid.noise("clump")
    d = grid.ellipse(r, rng.uniform(1.1, 1.9)) + np.float32(r * rng.uniform(0.12, 0.24)) * bend
    d = d + np.float32(0.3) * clump
    body = _inside(d, rng.uniform(0.35, 0.8))
    strands = 1 + np.float32(0.22) * clump + np.float32(0.12) * grid.noise("fine")
    amount = np.float32(rng.uniform(0.6, 1.25)) * body * strands * (1 - np.float32(0.1) * bend)
    return np.clip(amount, 0, None)[:, :, None], stain.density("smudge")[None, :], _inside(d, 0.2), True


def _debris(grid: _Grid, cell: Cell, stain: Stain) -> _Painted:
    d = grid.ellipse(cell.radius, grid.rng.uniform(1, 2.5)) + np.float32(0.35) * grid.noise("clump")
    body = _inside(d, 0.12)
    colour = stain.density("nucleus" if grid.rng.random() < 0.6 else "platelet") + np.float32(0.1)
    return (np.float32(grid.rng.uniform(0.3, 1.1)) * body)[:, :, None], colour[None, :], body, False


_PAINTERS = {
    BLAST: _white_cell,
    WBC: _white_cell,
    RBC: _red_cell,
    PLATELET: _platelet,
    SMUDGE: _smudge,
    DEBRIS: _debris,
}
