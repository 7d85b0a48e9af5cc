"""Stains of real and imaginary laboratories for synthetic smears."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stain:
    """Stain of one laboratory.

    Parameters
    ----------
    background : (float, float, float)
        RGB of the empty background.
    red, nucleus, pale, blue, eosin, platelet, smudge : (float, float, float)
        RGB of red cells, nuclei, pale and blue cytoplasm, eosinophil granules, platelets and smudge cells.
    pallor : float
        Central pallor of the red cells, from 0 to 1.
    edge, halo : float
        Strength of the dark rim and of the bright halo of the red cells.
    odd_red : float
        Fraction of red cells with an abnormal shape.
    dots : float
        Fraction of red cells with a refractile dot.
    brightness : float
        Variation of the brightness between slides.
    """

    background: tuple[float, float, float]
    red: tuple[float, float, float]
    nucleus: tuple[float, float, float]
    pale: tuple[float, float, float]
    blue: tuple[float, float, float]
    eosin: tuple[float, float, float]
    platelet: tuple[float, float, float]
    smudge: tuple[float, float, float]
    pallor: float = 0.5
    edge: float = 0.15
    halo: float = 0.05
    odd_red: float = 0.1
    dots: float = 0.02
    brightness: float = 0.02

    def density(self, name: str) -> NDArray[np.float32]:
        """Optical density of one colour relative to the background, float32 (3,).

        Parameters
        ----------
        name : str
            Field of the stain, such as ``"nucleus"``.

        Examples
        --------
        >>> STAINS["bccd"].density("background").tolist()
        [0.0, 0.0, 0.0]
        """
        colour = np.clip(np.asarray(getattr(self, name), np.float64), 1, 255)
        return np.log10(np.asarray(self.background) / colour).astype(np.float32)


STAINS: dict[str, Stain] = {
    "bccd": Stain(
        (197, 197, 193), (175, 149, 157), (116, 84, 194), (183, 156, 200), (146, 142, 212), (186, 112, 142),
        (148, 138, 204), (172, 140, 210), pallor=0.8, edge=0.3, halo=0.03, odd_red=0.15, dots=0.15, brightness=0.02,
    ),
    "pbc": Stain(
        (250, 225, 199), (196, 157, 160), (80, 42, 120), (217, 180, 187), (150, 139, 178), (206, 134, 150),
        (112, 66, 138), (168, 118, 166), pallor=0.62, edge=0.10, halo=0.02, odd_red=0.12, brightness=0.01,
    ),
    "all": Stain(
        (240, 247, 249), (172, 186, 222), (140, 110, 230), (203, 200, 240), (168, 174, 236), (216, 156, 198),
        (160, 138, 214), (206, 176, 232), pallor=0.75, edge=0.25, halo=0.03, odd_red=0.1,
    ),
    "chula": Stain(
        (164, 173, 168), (136, 110, 120), (84, 62, 132), (150, 148, 164), (112, 120, 156), (150, 88, 110),
        (108, 88, 146), (134, 108, 148), pallor=0.62, edge=0.25, halo=0.14, odd_red=0.22, dots=0.06, brightness=0.07,
    ),
}  # fmt: skip


def stain_named(name: str, rng: np.random.Generator, jitter: float) -> Stain:
    """Draw the stain of one slide of a laboratory.

    Parameters
    ----------
    name : str
        Key of `STAINS`, or ``"random"`` for an imaginary laboratory.
    jitter : float
        Variation between slides; 0: none.
    """
    stain = random_stain(rng) if name == "random" else STAINS[name]
    background = np.asarray(stain.background) * np.exp(
        stain.brightness * jitter * (rng.normal(0, 1, 3) + rng.normal(0, 1))
    )
    background = np.clip(background, 60, 254)
    strength = np.exp(rng.normal(0, 0.12 * jitter) + rng.normal(0, 0.04 * jitter, 3))
    colours = {}
    for part in ("red", "nucleus", "pale", "blue", "eosin", "platelet", "smudge"):
        density = stain.density(part) * strength * np.exp(rng.normal(0, 0.04 * jitter, 3))
        colours[part] = tuple(float(v) for v in background * 10.0**-density)
    pallor = float(np.clip(stain.pallor + rng.normal(0, 0.1 * jitter), 0.1, 0.8))
    return replace(stain, background=tuple(float(v) for v in background), pallor=pallor, **colours)  # type: ignore[arg-type]


def random_stain(rng: np.random.Generator) -> Stain:
    """Draw the stain of an imaginary laboratory: a mixture of eosin, azure and grey, with any brightness and camera."""
    eosin = np.array([rng.uniform(0.05, 0.35), 0.85, rng.uniform(0.3, 0.75)])
    azure = np.array([0.85, rng.uniform(0.55, 0.95), rng.uniform(0.05, 0.45)])
    grey = np.ones(3) * 0.6
    background = 255 * rng.uniform(0.62, 0.99) * np.exp(rng.normal(0, 0.07, 3))
    background = np.clip(background, 90, 254)
    red_mix = rng.dirichlet([2.0, 0.7, 0.8])
    red = rng.uniform(0.14, 0.42) * (red_mix @ np.stack([eosin, azure, grey]))
    azure_part = rng.uniform(0.45, 0.9)
    nucleus = rng.uniform(0.42, 0.95) * (azure_part * azure + (1 - azure_part) * eosin)
    densities = {
        "red": red,
        "nucleus": nucleus,
        "pale": rng.uniform(0.08, 0.2) * (0.5 * eosin + 0.5 * azure),
        "blue": rng.uniform(0.18, 0.42) * (0.15 * eosin + 0.85 * azure),
        "eosin": rng.uniform(0.2, 0.36) * (0.9 * eosin + 0.1 * azure) + 0.3 * red,
        "platelet": nucleus * rng.uniform(0.45, 0.8),
        "smudge": nucleus * rng.uniform(0.3, 0.55) + 0.05 * eosin,
    }
    colours = {name: tuple(float(v) for v in background * 10.0**-od) for name, od in densities.items()}
    return Stain(
        background=tuple(float(v) for v in background),  # type: ignore[arg-type]
        pallor=float(rng.uniform(0.2, 0.65)),
        edge=float(rng.uniform(0.05, 0.3)),
        halo=float(rng.uniform(0, 0.12)),
        odd_red=float(rng.uniform(0.05, 0.25)),
        dots=float(rng.uniform(0, 0.1)),
        **colours,  # type: ignore[arg-type]
    )
