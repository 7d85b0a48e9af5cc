"""What a run records about itself and a card repeats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blastdet.core.model_card import find_weights
from blastdet.training.loop.run_record import portable


@given(st.sampled_from(["/a/b/set", "set", "${DATA}/set", "c, /d"]), st.sampled_from(["/a/b", "/x"]))
def test_a_card_holds_no_path_of_a_machine(path, base):
    found = portable({"data": [{"path": path}], "seed": 0}, Path(base))
    absolute = path.startswith("/")
    assert found == {"data": [{"path": "set" if absolute else path}], "seed": 0}


@pytest.mark.parametrize("name", ["default", "blast"])
def test_shipped_cards_are_portable(name):
    card = json.loads((find_weights(name) / "card.json").read_text(encoding="utf-8"))
    assert portable(card, Path("/nowhere")) == card
