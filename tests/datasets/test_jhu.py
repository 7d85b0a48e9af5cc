"""JHU acute leukaemia: one cell in the centre, patients as groups, leukaemic cells that are no blasts left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lookalike
import numpy as np
import pytest

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, PLATELET
from blastdet.datasets.formats.registry import detect_format
from blastdet.datasets.published import jhu

ROWS = (
    ("Patient_00/blast_a.jpg", "Patient_00", "APL", "blast"),
    ("Patient_00/promyelocyte_b.jpg", "Patient_00", "APL", "promyelocyte"),
    ("Patient_01/promyelocyte_c.jpg", "Patient_01", "AML", "promyelocyte"),
    ("Patient_01/promonocyte_d.jpg", "Patient_01", "AML", "promonocyte"),
    ("Patient_01/giant_thrombocyte_e.jpg", "Patient_01", "AML", "giant_thrombocyte"),
)


def jhu_copy(root: Path) -> Path:
    lines = ["image,patient,diagnosis,cell_type,blob", *(",".join((*row, "x")) for row in ROWS)]
    (root / "labels.csv").write_text("\n".join(lines))
    for name, *_ in ROWS:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        lookalike.image_file(root / "images" / name, (360, 363), [(180, 180)], width=110)
    return root


def test_the_cell_in_the_centre(tmp_path: Path) -> None:
    assert detect_format(jhu_copy(tmp_path)) == "jhu"
    dataset = jhu.read(tmp_path)
    truths = [sample.truth for sample in dataset]
    assert [truth.label.tolist() for truth in truths if truth] == [[0], [1], [1], [1], [3]]
    assert [truth.ignore.tolist() for truth in truths if truth] == [[False], [True], [False], [True], [False]]
    assert [sample.group for sample in dataset] == ["Patient_00"] * 2 + ["Patient_01"] * 3
    first = dataset.samples[0]
    assert first.label is None and first.truth is not None and first.truth.point_xy.tolist() == [[180, 181.5]]
    assert np.isnan(first.truth.boxes_xyxy).all() and first.annotated == () and first.mpp == (0.1, 0.1)


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    (jhu_copy(tmp_path) / "images" / ROWS[0][0]).unlink()
    with pytest.raises(FormatError, match=r"blast_a\.jpg: expected this image, listed in labels\.csv"):
        jhu.read(tmp_path)


@pytest.mark.realdata
def test_real_jhu(data_dir: Path) -> None:
    dataset = jhu.read(data_dir / "jhu_acute")
    labels = Counter(sample.truth.label.item() for sample in dataset if sample.truth)
    assert (len(dataset), len({sample.group for sample in dataset})) == (3433, 82)
    assert (labels[BLAST], labels[PLATELET]) == (1052, 17)
    assert sum(sample.truth.ignore.sum() for sample in dataset if sample.truth) > 30
