"""The examples of docstrings."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest
from architecture import FILES, PACKAGE, package_of

MODULES = [path for path in FILES if ">>>" in path.read_text("utf-8")]


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _marked(path: Path) -> object:
    """What imports torch is not in the quick tests."""
    return pytest.param(_module(path), marks=[pytest.mark.slow] if package_of(path) == "training" else [])


@pytest.mark.parametrize("module", [_marked(path) for path in MODULES])
def test_examples_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PACKAGE.parent)  # they name files below datasets/
    assert doctest.testmod(import_module(module)).failed == 0
