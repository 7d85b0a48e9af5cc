"""Class names of files, mapped to the classes of blastdet."""

from __future__ import annotations

import pytest

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import BLAST, PLATELET, RBC, WBC
from blastdet.datasets.annotations import class_names


@pytest.mark.parametrize(
    ("name", "label"), [("WBC", WBC), ("wbcs", WBC), (" Platelets ", PLATELET), ("BLAST", BLAST), ("Neutrophil", RBC)]
)
def test_class_names(name: str, label: int) -> None:
    assert class_names.label_of(name, {"Neutrophil": "rbc"}, "f") == label


def test_the_map_comes_first_and_must_lead_to_a_known_class() -> None:
    assert class_names.label_of("WBC", {"WBC": "blast"}, "f") == BLAST
    with pytest.raises(
        FormatError, match=r"^f: expected a class out of blast, wbc, rbc, platelet, y, z, got 'x'\. Map it: --map x"
    ):
        class_names.label_of("x", {"y": "wbc", "z": "rbc"}, "f")
    with pytest.raises(ConfigError, match=r"--map x=leukocyte: expected one of blast, .* got 'leukocyte'"):
        class_names.label_of("wbc", {"x": "leukocyte"}, "f")
