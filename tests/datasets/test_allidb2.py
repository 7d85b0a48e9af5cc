"""ALL-IDB2: crops of one cell each."""

from __future__ import annotations

from pathlib import Path

import lookalike
import numpy as np

from blastdet.core.types import BLAST, WBC
from blastdet.datasets.published import allidb1, allidb2


def test_crops_are_one_cell_each(tmp_path: Path) -> None:
    lookalike.allidb2(tmp_path, n_blasts=2, n_healthy=1)
    assert allidb2.matches(tmp_path)
    dataset = allidb2.read(tmp_path)
    assert [sample.path.name for sample in dataset] == ["Im001_1.tif", "Im002_1.tif", "Im003_0.tif"]
    assert [sample.label for sample in dataset] == ["blast", "blast", "wbc"]
    for sample, label in zip(dataset, (BLAST, BLAST, WBC), strict=True):
        assert sample.truth is not None and sample.truth.point_xy is not None
        assert sample.truth.label.tolist() == [label]
        assert sample.truth.point_xy.tolist() == [[128.5, 128.5]]
        assert np.isnan(sample.truth.boxes_xyxy).all()
        assert (sample.size_wh, sample.annotated, sample.group, sample.mpp) == ((257, 257), (), None, None)
    assert "may leak" in dataset.notes[0]


def test_allidb1_and_allidb2_are_not_taken_for_each_other(tmp_path: Path) -> None:
    one = lookalike.allidb1(tmp_path / "one", ["Im037_0"])
    two = lookalike.allidb2(tmp_path / "two", 1, 1)
    assert (allidb1.matches(one), allidb1.matches(two)) == (True, False)
    assert (allidb2.matches(one), allidb2.matches(two)) == (False, True)
