"""Cell types of datasets: names, and what a cell may be when its dataset does not tell."""

from __future__ import annotations

import pytest

from blastdet.core.constants import CELL_TYPES
from blastdet.datasets.annotations.cell_types import possible_types, type_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Segmented neutrophil", "neutrophil"),
        ("band-neutrophil", "neutrophil"),
        ("MYELOCYTE", "immature_granulocyte"),
        ("Lymphoblast", "blast"),
        ("normoblast", "erythroblast"),
        ("plasma cell", None),
        ("", None),
        *((name, name) for name in CELL_TYPES),
    ],
)
def test_names_in_any_spelling(name: str, kind: str | None) -> None:
    assert type_of(name) == kind


@pytest.mark.parametrize(
    ("label", "cell_type", "smear", "inside", "outside"),
    [
        ("blast", "", "", {"blast"}, set(CELL_TYPES) - {"blast"}),
        ("wbc", "", "", {"lymphocyte", "immature_granulocyte"}, {"blast", "erythroblast", "smudge"}),
        ("wbc", "plasma_cell", "", {"lymphocyte"}, {"blast"}),
        ("not a cell", "", "early", {"smudge"}, {"blast"}),
        ("", "", "benign", {"lymphocyte", "smudge", "erythroblast"}, {"blast"}),
        ("", "", "pro", {"blast"}, {"lymphocyte"}),
        ("wbc", "", "pro", {"lymphocyte"}, {"blast"}),  # the label of the cell counts before that of the image
        ("", "", "", set(), set(CELL_TYPES)),
    ],
)
def test_what_a_cell_may_be(label: str, cell_type: str, smear: str, inside: set[str], outside: set[str]) -> None:
    found = set(possible_types(label, cell_type, smear))
    assert inside <= found and not outside & found
