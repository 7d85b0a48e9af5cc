"""White cells on real images with restained red cells: AP50 and precision, against the same images as they are.

    python benchmarks/restained.py [--weights default] [--images 60] [--develop] [--blur 0] [--crowd 0]

Red cells of each image become violet, blue, grey and brown, nuclei stay (`blastdet.imaging.restaining`). Every image
can also be blurred, and its red cells laid over it again. `--images` per laboratory, drawn with a fixed seed: BCCD
test, PBC test and the hand-boxed ALL fields, or, with `--develop`, BCCD val, PBC val and other ALL fields, whose boxes
are the shipped model's own on the unchanged images. Choose nothing by the former. Needs the datasets in BLASTDET_DATA.
Prints a table, and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from blastdet.core.types import RGB, Dataset, Sample
from blastdet.imaging.io import open_smear
from blastdet.imaging.optical_density import density_table, to_levels
from blastdet.imaging.restaining import RED_CELL_HUES, measure_stains, restain, separate

REPO = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BLASTDET_DATA", REPO / "../shared/data"))
BOXES = REPO / "datasets/all_fields_boxes.json"
SEED = 11
STAINS = ("as it is", *RED_CELL_HUES)


def main() -> None:
    """Evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--images", type=int, default=60, help="per laboratory")
    parser.add_argument("--develop", action="store_true", help="validation images instead of test images")
    parser.add_argument("--blur", type=float, default=0.0, help="sigma in µm of a blur of every image")
    parser.add_argument("--crowd", type=int, default=0, help="how often the red cells are laid over the image again")
    parser.add_argument("--out", type=Path, default=REPO / "runs/restained")
    parser.add_argument("--only", action="append", help="laboratory")
    asked = parser.parse_args()
    data = development(asked.out) if asked.develop else laboratories()
    rows = []
    print("| laboratory | images | cells | stain | AP50 | precision | sensitivity |\n|---|---|---|---|---|---|---|")
    for name in asked.only or data:
        for row in measure(asked.weights, drawn(data[name], asked.images), asked.out / name, (asked.blur, asked.crowd)):
            rows.append({"laboratory": name, **row})
            figures = [f"{row[k]:.3f} [{row[k + '_lower']:.3f}, {row[k + '_upper']:.3f}]" for k in FIGURES]
            print(f"| {name} | {row['images']} | {row['cells']} | {row['stain']} | {' | '.join(figures)} |", flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "restained.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


FIGURES = ("AP50", "precision", "recall")


def laboratories() -> dict[str, Dataset]:
    """Test images of each laboratory."""
    import blastdet

    return {
        "bccd": blastdet.read_dataset(DATA / "bccd", "test"),
        "pbc_wbc": _split(blastdet.read_dataset(DATA / "pbc_wbc"), "test"),
        "all_fields": blastdet.read_dataset(BOXES, images=str(DATA / "all_fields")),
    }


def development(out: Path) -> dict[str, Dataset]:
    """Validation images of each laboratory."""
    from laboratories import agreed_boxes

    import blastdet

    agreed = agreed_boxes(out / "agreed.json")
    return {
        "bccd": blastdet.read_dataset(DATA / "bccd", "val"),
        "pbc_wbc": _split(blastdet.read_dataset(DATA / "pbc_wbc"), "val"),
        "all_fields": blastdet.read_dataset(agreed[1], images=agreed[3]),
    }


def _split(dataset: Dataset, name: str) -> Dataset:
    from blastdet.datasets.splits import grouped

    return grouped(dataset).with_split(name)


def drawn(dataset: Dataset, n: int) -> Dataset:
    """At most `n` images, the same in every run."""
    chosen = sorted(np.random.default_rng(SEED).permutation(len(dataset))[:n].tolist())
    return replace(dataset, samples=tuple(dataset.samples[i] for i in chosen))


def measure(
    weights: str | Path, dataset: Dataset, folder: Path, harder: tuple[float, int] = (0.0, 0)
) -> Iterator[dict[str, Any]]:
    """Figures of the class wbc under each stain: AP50, and precision and sensitivity at the operating point.

    Parameters
    ----------
    folder : Path
        Where the restained images are written.
    harder : (float, int)
        Sigma of a blur in µm, and how often the red cells are laid over the image again.
    """
    import blastdet

    model = blastdet.load(str(weights))
    for stain in STAINS:
        images = restained(dataset, stain, folder / stain.replace(" ", "-"), harder)
        row = next(row for row in blastdet.evaluate(images, model).summary if row["class"] == "wbc")
        figures = {key: value for key, value in row.items() if key not in ("class", "n")}
        yield {"stain": stain, "images": len(dataset), "cells": row["n"], **figures}


def restained(dataset: Dataset, stain: str, folder: Path, harder: tuple[float, int] = (0.0, 0)) -> Dataset:
    """A copy of a dataset whose red cells have another hue."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = [_written(sample, stain, folder / f"{i:04}.png", harder) for i, sample in enumerate(dataset)]
    return replace(dataset, name=f"{dataset.name}, {stain}", root=folder, samples=tuple(samples))


def _written(sample: Sample, stain: str, path: Path, harder: tuple[float, int]) -> Sample:
    blur, copies = harder
    with open_smear(sample.path) as source:
        rgb = source.read()
    if copies:
        rgb = crowded(rgb, copies)
    if stain in RED_CELL_HUES:
        rgb = restain(rgb, stain)
    if blur and sample.mpp is not None:
        rgb = cv2.GaussianBlur(rgb, (0, 0), sigmaX=blur / sample.mpp[0], sigmaY=blur / sample.mpp[1])
    cv2.imwrite(str(path), rgb[..., ::-1])
    return replace(sample, path=path)


def crowded(rgb: RGB, copies: int) -> RGB:
    """An image with its red cells laid over it again, mirrored and shifted; white cells stay free."""
    stains = measure_stains(rgb)
    if stains is None:
        return rgb
    density = np.asarray(cv2.LUT(rgb, density_table(stains.background)[None]), np.float32)
    red, nuclei = separate(density, stains)
    mask = cv2.morphologyEx((nuclei > 0.25).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    side = max(3, int(min(rgb.shape[:2]) * 0.03) | 1)
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    free = 1 - cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2)
    rng = np.random.default_rng(SEED)
    for i in range(copies):
        turned = (red * (1 - mask))[:: (1, -1)[i % 3 != 1], :: (1, -1)[i % 3 != 0]]
        shifted = np.roll(turned, rng.integers(0, 60, 2), (0, 1))
        density += (shifted * free)[..., None] * stains.red_cell.astype(np.float32)
    return np.asarray(np.clip(np.rint(to_levels(density, stains.background)), 0, 255), np.uint8)


if __name__ == "__main__":
    main()
