"""A short run of the fuzzing of `make fuzz`, and its parts."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest

SEED = 20


@pytest.mark.parametrize("number", range(len(fuzz.TARGETS)), ids=[target.name for target in fuzz.TARGETS])
def test_the_valid_file_is_accepted(tmp_path: Path, number: int) -> None:
    """Else the mutations would only show that everything is refused."""
    assert fuzz.fault_of(fuzz.TARGETS[number], fuzz.valid(number), tmp_path) == (True, None)


def test_a_file_depends_on_seed_and_number_only() -> None:
    assert [fuzz.mutated(SEED, n)[1] for n in range(40)] == [fuzz.mutated(SEED, n)[1] for n in range(40)]
    assert fuzz.mutated(SEED, 5)[1] != fuzz.mutated(SEED + 1, 5)[1]


def test_what_goes_wrong_is_a_fault(tmp_path: Path) -> None:
    def broken(root: Path, out: Path) -> None:
        raise ZeroDivisionError("x")

    target = fuzz.Target("t", "a.txt", lambda root: None, broken)
    accepted, fault = fuzz.fault_of(target, b"", tmp_path)
    assert not accepted and fault is not None and fault.startswith("ZeroDivisionError: x (test_fuzz.py:")


def test_mutated_files_of_every_kind_give_a_result_or_one_line() -> None:
    found = fuzz.fuzz(SEED, files=6 * len(fuzz.TARGETS), workers=1)
    assert found.faults == {}
    assert sum(found.read.values()) == 6 * len(fuzz.TARGETS) and found.peak_mib < 1024
