"""One scale for the images of a run that have one size."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made import image_file

from blastdet.core.errors import ImageError
from blastdet.core.types import RBC, Detections
from blastdet.imaging.io import open_smear
from blastdet.inference import folder_scale
from blastdet.inference.folder_scale import FolderScales, analyze_in_run
from blastdet.inference.scale import ScaleEstimate

MODEL: Any = SimpleNamespace(normalize_stain=lambda source: source, detector=None)


def measured(mpp: float, n: int = 40) -> ScaleEstimate:
    return ScaleEstimate((mpp, mpp), "red_cells", n)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: scales of images by name -> paths, and the list of those that were measured."""
    asked: list[str] = []

    def make(scales: dict[str, ScaleEstimate]) -> tuple[list[Path], list[str]]:
        def estimate(source: Any, asked_for: Any, detector: Any) -> ScaleEstimate:
            asked.append(source.path.name)
            return scales[source.path.name]

        monkeypatch.setattr(folder_scale, "estimate_scale", estimate)
        return [image_file(tmp_path / name) for name in scales], asked

    return make


def scale_of(scales: FolderScales, path: Path) -> ScaleEstimate | None:
    with open_smear(path) as source:
        return scales.of(path, source)


def test_few_of_many_are_measured_and_all_have_the_median(folder: Any) -> None:
    paths, asked = folder({f"{i:03}.jpg": measured(0.09 + (i % 3) / 1000) for i in range(100)})
    scales = FolderScales(paths, MODEL, None)
    found = [scale_of(scales, path) for path in paths]
    assert len(asked) == 3
    assert {one.mpp for one in found if one is not None} == {found[0].mpp} and found[0].mpp[0] == pytest.approx(
        0.091, 0.02
    )
    assert found[0].describe() == "red cells of 3 images of this size"
    assert scales.notes() == [
        f"scale of 100 images of 64 x 48 px: {found[0].mpp[0]:.4g} µm/px, the median of 3. "
        f"Next time: --mpp {found[0].mpp[0]:.4g}"
    ]


@pytest.mark.parametrize("at", range(4))
def test_one_outlier_takes_the_scale_of_the_others_and_is_named(folder: Any, at: int) -> None:
    paths, _ = folder({f"{i}.jpg": measured(0.47 if i == at else 0.09) for i in range(4)})
    scales = FolderScales(paths, MODEL, None)
    found = [scale_of(scales, path) for path in paths]
    assert [one.mpp for one in found] == [(0.09, 0.09)] * 4
    marked = [i for i, one in enumerate(found) if one.warnings]
    assert marked in ([at], [])  # it is named if it was in the sample
    if marked:
        assert "measured by itself it has 0.47 µm/px" in found[at].warnings[0]


def test_two_objectives_have_no_common_scale(folder: Any) -> None:
    paths, _ = folder({f"{i}.jpg": measured(0.1 if i % 2 else 0.25) for i in range(12)})
    scales = FolderScales(paths, MODEL, None)
    assert [scale_of(scales, path) for path in paths] == [None] * 12 and scales.notes() == []


def test_images_with_few_red_cells_borrow(folder: Any) -> None:
    unknown = ScaleEstimate(None, "unknown", reason="no red cells")
    paths, _ = folder({"a.jpg": unknown, "b.jpg": measured(0.3, 2), "c.jpg": measured(0.1), "d.jpg": unknown})
    found = [scale_of(FolderScales(paths, MODEL, "auto"), path) for path in paths]
    assert [one.mpp for one in found] == [(0.1, 0.1)] * 4


def test_given_or_alone_is_not_measured_together(folder: Any, tmp_path: Path) -> None:
    paths, asked = folder({"a.jpg": measured(0.1), "b.jpg": measured(0.1)})
    assert scale_of(FolderScales(paths, MODEL, (0.2, 0.2)), paths[0]) is None
    assert scale_of(FolderScales(paths[:1], MODEL, None), paths[0]) is None
    assert asked == []
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert scale_of(FolderScales([tmp_path / "broken.jpg", *paths], MODEL, None), paths[0]).mpp == (0.1, 0.1)


class Analyzing:
    """A model that finds ten red cells of so many pixels."""

    detector = None

    def __init__(self, width: float) -> None:
        self.width, self.scales = width, []

    def analyze_source(self, source: Any, scale: ScaleEstimate, options: Any) -> Any:
        self.scales.append(scale)
        corner = np.full((10, 2), 5.0)
        return SimpleNamespace(detections=Detections(np.hstack([corner, corner + self.width]), label=[RBC] * 10))


def test_red_cells_that_contradict_the_common_scale_are_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    common = ScaleEstimate((0.1, 0.1), "run", n_images=3)
    source: Any = SimpleNamespace(size_wh=(900, 900))
    monkeypatch.setattr(folder_scale, "estimate_scale", lambda *_: measured(0.2))
    fits = Analyzing(75)  # 7.5 µm at 0.1 µm/px
    analyze_in_run(fits, source, None, common)
    assert fits.scales == [common]
    other = Analyzing(37.5)
    analyze_in_run(other, source, None, common)
    assert [scale.mpp for scale in other.scales] == [(0.1, 0.1), (0.2, 0.2)]
    assert "its red cells measure 0.2 µm/px, those of other images of this size 0.1" in other.scales[1].warnings[0]


def test_a_damaged_image_of_the_sample_is_left_to_its_own_turn(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = folder({f"{i}.jpg": measured(0.1) for i in range(3)})

    def broken(path: Path) -> Any:
        raise ImageError(f"{path}: damaged")

    scales = FolderScales(paths, MODEL, None)
    with open_smear(paths[0]) as source:
        monkeypatch.setattr(folder_scale, "open_smear", broken)
        assert scales.of(paths[0], source) is None
