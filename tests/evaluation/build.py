"""Small datasets for the tests of evaluation, built from rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from blastdet.core.types import Dataset, Detections, Sample

Row = tuple[float, ...]


def cells(rows: Sequence[Row], label: int | Sequence[int] = 1, **columns: object) -> Detections:
    """Detections from rows ``x1, y1, x2, y2[, score]``."""
    if not rows:
        return Detections.empty()
    table = np.array(rows, np.float32)
    score = table[:, 4] if table.shape[1] > 4 else np.ones(len(table), np.float32)
    return Detections(table[:, :4], score, np.broadcast_to(label, len(table)), **columns)  # type: ignore[arg-type]


def dataset(truths: Sequence[Detections | None], **columns: object) -> Dataset:
    """One image of 1000 x 1000 px for each truth; keyword arguments apply to all images."""
    common = {"annotated": ("blast", "wbc", "rbc"), "mpp": (0.1, 0.1), **columns}
    samples = [
        Sample(Path(f"/data/s{i:03}.png"), (1000, 1000), truth=truth, **common)  # type: ignore[arg-type]
        for i, truth in enumerate(truths)
    ]
    return Dataset("made", Path("/data"), tuple(samples))


def random_truth(rng: np.random.Generator, n: int, ignore_share: float = 0.1) -> Detections:
    """Boxes on a coarse grid, so that equal and overlapping ones are frequent."""
    corner = rng.integers(0, 12, (n, 2)) * 20
    side = rng.integers(1, 5, (n, 2)) * 20
    boxes = np.concatenate([corner, corner + side], axis=1)
    return Detections(boxes, label=rng.integers(0, 3, n), ignore=rng.random(n) < ignore_share)


def random_found(rng: np.random.Generator, truth: Detections, n_extra: int) -> Detections:
    """Shifted copies of the truth and random boxes; scores from ten values, so that ties are frequent."""
    extra = random_truth(rng, n_extra)
    boxes = np.concatenate([truth.boxes_xyxy, truth.boxes_xyxy[::2], extra.boxes_xyxy])
    boxes = boxes + rng.integers(-1, 2, boxes.shape) * rng.choice([0, 2, 5])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    label = np.concatenate([truth.label, truth.label[::2], extra.label])
    label = np.where(rng.random(len(label)) < 0.1, rng.integers(0, 3, len(label)), label)
    boxes = np.clip(boxes, [0, 0, 1, 1], 1000)
    return Detections(boxes, rng.integers(0, 11, len(boxes)) / 10, label)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Dataset, list[Detections]]:
    """A dataset and detections on it: ties, empty images, ignored regions, partly annotated images."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truths: list[Detections | None] = []
    found = []
    for _ in range(draw(st.integers(1, 4))):
        truth = random_truth(rng, draw(st.integers(0, 12)), draw(st.sampled_from([0.0, 0.2])))
        truths.append(None if draw(st.integers(0, 9)) == 0 else truth)
        found.append(random_found(rng, truth, draw(st.integers(0, 8))) if draw(st.booleans()) else Detections.empty())
    data = dataset(truths)
    annotated = [draw(st.sampled_from([("blast", "wbc", "rbc"), ("blast", "wbc"), ("rbc",)])) for _ in truths]
    samples = tuple(
        Sample(s.path, s.size_wh, s.mpp, annotated=a, truth=s.truth) for s, a in zip(data, annotated, strict=True)
    )
    return Dataset("made", Path("/data"), samples), found
