"""C-NMC 2019: subjects are groups, the name decides the class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lookalike

from blastdet.datasets.published import cnmc


def test_subject_is_the_group(tmp_path: Path) -> None:
    lookalike.cnmc(tmp_path / "C-NMC_training_data", folds=2, subjects=2, cells=1)
    assert cnmc.matches(tmp_path)
    dataset = cnmc.read(tmp_path)
    assert len(dataset) == 8
    assert Counter(sample.label for sample in dataset) == {"blast": 4, "wbc": 4}
    assert {sample.group for sample in dataset} == {"1", "2", "3", "4", "H1", "H2", "H3", "H4"}
    assert {sample.group for sample in dataset if sample.label == "wbc"} == {"H1", "H2", "H3", "H4"}
    assert {sample.size_wh for sample in dataset} == {(450, 450)}
    one_fold = cnmc.read(tmp_path / "C-NMC_training_data/fold_0")
    assert {sample.group for sample in one_fold} == {"1", "2", "H1", "H2"}


def test_file_in_the_wrong_folder_is_noted(tmp_path: Path) -> None:
    lookalike.cnmc(tmp_path, folds=1, subjects=1, cells=1)
    (tmp_path / "fold_0/all/UID_1_1_1_all.bmp").rename(tmp_path / "fold_0/hem/UID_1_1_1_all.bmp")
    dataset = cnmc.read(tmp_path)
    assert dataset.notes == ("UID_1_1_1_all.bmp: is in the folder hem, read as all because of its name",)
    assert Counter(sample.label for sample in dataset) == {"blast": 1, "wbc": 1}
