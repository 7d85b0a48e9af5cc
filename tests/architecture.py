"""The table docs/architecture.yaml, and what the source code of the package says about itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "blastdet"
TABLE: dict[str, Any] = yaml.safe_load((REPO / "docs" / "architecture.yaml").read_text("utf-8"))
LIMITS: dict[str, int] = TABLE["limits"]
LEVEL = {row["name"]: number for number, rows in enumerate(TABLE["levels"]) for row in rows}
FILES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def package_of(path: Path) -> str:
    """First-level package of a file; ``__init__`` or ``__main__`` for the two files at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


parsed = cache(ast.parse)
"""The tree of a source text; several tests read each file's."""


def imported_packages(source: str) -> set[str]:
    """First-level packages that a module imports, inside functions too; TYPE_CHECKING blocks do not count."""
    tree = parsed(source)
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "blastdet":
            names |= {f"blastdet.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("blastdet.")} & LEVEL.keys()


def functions(source: str) -> Iterator[tuple[Function, int]]:
    """Every function of a module with its number of lines, docstring not counted."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, Function):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                docstring = node.body[0]
                lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
            yield node, lines


def parameters(function: Function) -> list[str]:
    """Names of the parameters; ``self``, ``cls``, ``*args`` and ``**kwargs`` do not count."""
    every = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [one.arg for one in every if one.arg not in ("self", "cls")]
