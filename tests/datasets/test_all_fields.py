"""ALL fields: class, group, cluster and anisotropic scale."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lookalike
import pytest

from blastdet.core.errors import FormatError
from blastdet.datasets.published import all_fields


def test_class_group_and_anisotropic_scale(tmp_path: Path) -> None:
    for folder in ("Benign", "Early", "Pre", "Pro"):  # as in the published archive
        lookalike.image_file(tmp_path / folder / "a.jpg", (224, 224))
    assert all_fields.matches(tmp_path)
    dataset = all_fields.read(tmp_path)
    assert [sample.label for sample in dataset] == ["benign", "early", "pre", "pro"]
    assert {(sample.mpp, sample.truth, sample.annotated, sample.group) for sample in dataset} == {
        ((0.5, 0.375), None, (), None)
    }
    assert "groups of overlapping fields are unknown" in dataset.notes[0]


def test_reads_groups_and_clusters(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        lookalike.image_file(tmp_path / "pro" / name, (224, 224))
    assert not all_fields.matches(tmp_path)
    table = tmp_path / "clusters.csv"
    table.write_text(
        "image,class,number,cluster,mark,group\npro/a.jpg,pro,1,pro_c01,red,f0007\npro/b.jpg,pro,2,pro_c02,red,f0007\n"
    )
    samples = all_fields.read(tmp_path).samples
    assert [(sample.group, sample.cluster) for sample in samples] == [("f0007", "pro_c01"), ("f0007", "pro_c02")]
    table.write_text("image,cluster,group\npro/a.jpg,c,f\n")
    with pytest.raises(FormatError, match=r"expected a row for every image, got none for pro/b\.jpg"):
        all_fields.read(tmp_path)


@pytest.mark.realdata
def test_real_all_fields(data_dir: Path) -> None:
    root = data_dir / "all_fields"
    dataset = all_fields.read(root)
    assert Counter(sample.label for sample in dataset) == {"benign": 438, "early": 860, "pre": 783, "pro": 704}
    groups = Counter(sample.group for sample in dataset)
    in_company = [n for n in groups.values() if n > 1]
    assert (len(groups), len(in_company), sum(in_company)) == (2272, 373, 886)
    assert len({sample.cluster for sample in dataset}) == 63
    assert {sample.size_wh for sample in dataset} == {(224, 224)} and all_fields.matches(root)
