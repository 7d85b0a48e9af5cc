"""The architecture: who may import whom, how large modules may be, what is imported when, and what an import changes.

The rules come from docs/architecture.yaml, the table that docs/architecture.md shows.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from architecture import (
    FILES,
    LEVEL,
    LIMITS,
    PACKAGE,
    PACKAGES,
    TABLE,
    functions,
    imported_packages,
    package_of,
    parameters,
)


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_table_lists_every_package():
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert found == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_run_downward(path):
    package = package_of(path)
    if package in {"__init__", "__main__"}:
        return  # the public names of all packages; the program
    imported = imported_packages(path.read_text("utf-8")) - {package}
    wrong = {other for other in imported if LEVEL[other] >= LEVEL[package]}
    assert not wrong, f"{package} (level {LEVEL[package]}) may not import {sorted(wrong)}"


def _subpackage(parts: list[str]) -> str | None:
    return parts[2] if len(parts) > 3 and (PACKAGE / parts[1] / parts[2] / "__init__.py").is_file() else None


@pytest.mark.parametrize("package", sorted(LEVEL))
def test_subpackages_do_not_import_each_other_in_circles(package):
    """Imports inside functions count; what a table names as text does not."""
    imported: dict[str, set[str]] = defaultdict(set)
    for path in (PACKAGE / package).glob("*/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"blastdet.{package}."):
                imported[path.parent.name].add(str(_subpackage([*str(node.module).split("."), "x"])))
    order = TopologicalSorter({name: others - {name, "None"} for name, others in imported.items()})
    order.prepare()  # raises CycleError, which names the circle


def test_an_upward_import_is_noticed_wherever_it_stands():
    inside = "def f():\n    from blastdet.review import page\n    import blastdet.cli.main\n"
    assert imported_packages(inside) == {"review", "cli"}
    assert imported_packages("from blastdet import training, inference") == {"training", "inference"}
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from blastdet.review import page\n"
    assert not imported_packages(hidden)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_modules_and_functions_keep_their_size(path):
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= LIMITS["lines_per_file"]
    long = {f"{node.name} (line {node.lineno})": n for node, n in functions(source) if n > LIMITS["lines_per_function"]}
    assert not long


@pytest.mark.parametrize("path", [path for path in FILES if package_of(path) != "cli"], ids=_name)
def test_functions_have_few_parameters(path):
    """Apart from commands, which have one for each option."""
    many = {f"{path.stem}.{node.name}": parameters(node) for node, _ in functions(path.read_text("utf-8"))}
    many = {name: given for name, given in many.items() if len(given) > LIMITS["parameters"]}
    assert set(many) <= set(TABLE["many_parameters"]), many


def test_docstring_lines_do_not_count():
    (node, lines), *_ = functions('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n')
    assert (node.name, lines) == ("f", 2)


@pytest.mark.parametrize("package", PACKAGES, ids=_name)
def test_packages_keep_their_size_and_introduce_themselves(package):
    modules = [path for path in package.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= LIMITS["modules_per_package"]
    assert len(package.relative_to(PACKAGE).parts) <= LIMITS["depth"]
    about = ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8"))) or ""
    assert len(about) > 40, "say what the package is for"
    if package.parent == PACKAGE:
        assert "import" in about.lower(), "say what the package imports"


def test_a_module_name_occurs_once():
    """A name may occur twice where a command and the library module that does its work share it."""
    places = defaultdict(list)
    for path in FILES:
        if not path.stem.startswith("__"):
            places[path.stem].append(path)
    for stem, paths in places.items():
        library = [path for path in paths if package_of(path) != "cli"]
        assert len(library) <= 1, f"{stem}: {[_name(path) for path in library]}"
        if len(paths) > 1:
            assert len(paths) == 2, f"{stem}: {[_name(path) for path in paths]}"
            assert stem in TABLE["same_name_in_cli"], f"{stem}: {[_name(path) for path in paths]}"


def _modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh process has imported after running `code`."""
    script = f"import sys\n{code}\nimport json\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


HEAVY = {
    "numpy",
    "cv2",
    "PIL",
    "pydantic",
    "yaml",
    "rich",
    "onnxruntime",
    "torch",
    "tifffile",
    "fiftyone",
    "matplotlib",
}
TRAINING = {"torch", "torchvision", "ultralytics", "albumentations", "sklearn", "fiftyone", "matplotlib", "pycocotools"}


SERVICE = {"fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "huey", "argon2", "prometheus_client", "httpx"}


def test_help_imports_click_and_nothing_heavy():
    code = "from click.testing import CliRunner; from blastdet.cli import cli; CliRunner().invoke(cli, ['--help'])"
    assert not _modules_after(code) & HEAVY


def test_the_package_itself_imports_nothing_heavy():
    assert not _modules_after("import blastdet") & HEAVY


def test_detect_imports_no_training_package(tmp_path):
    smear = PACKAGE.parent / "datasets/demo/smear.jpg"
    code = f"import blastdet; blastdet.detect({str(smear)!r}, mpp=(0.1, 0.1))"
    assert not _modules_after(code) & TRAINING


def test_base_imports_without_the_extras():
    """Every package but four can be imported where no optional package is installed."""
    without = {"training", "review", "evaluation", "service", "cli", "__main__"}
    modules = [p for p in FILES if package_of(p) not in without or p.stem == "client"]
    block = f"for name in {sorted(TRAINING | SERVICE | {'jinja2', 'pandas'})}: sys.modules[name] = None\n"
    free = "\nfor n in list(sys.modules):\n  if sys.modules[n] is None: del sys.modules[n]"
    _modules_after(block + "\n".join(f"import {_module(path)}" for path in modules) + free)


# What an import may not change: name -> expression.
STATE = {
    "click's exit code": "click.ClickException.exit_code",
    "environment": "dict(os.environ)",
    "matplotlib's backend": "matplotlib.rcParams._get_backend_or_none()",
    "threading.excepthook": "threading.excepthook is threading.__excepthook__",
    "sys.excepthook": "sys.excepthook is sys.__excepthook__",
    "handlers of the root logger": "[type(handler).__name__ for handler in logging.getLogger().handlers]",
    "level of the root logger": "logging.getLogger().level",
    "warning filters": "[str(entry) for entry in warnings.filters]",
    "signal handlers": "[str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]",
}


def _changed_by(code: str, first: str = "") -> dict[str, list[object]]:
    """What of STATE differs after running `code` in a fresh process: name -> before and after."""
    table = "{" + ", ".join(f"{name!r}: repr({expression})" for name, expression in STATE.items()) + "}"
    script = (
        "import json, logging, os, signal, sys, threading, warnings\nimport click, matplotlib\n"
        f"{first}\nbefore = {table}\n{code}\nafter = {table}\n"
        "print(json.dumps({k: [before[k], after[k]] for k in before if before[k] != after[k]}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    changed: dict[str, list[object]] = json.loads(run.stdout.splitlines()[-1])
    return changed


def test_importing_the_package_changes_nothing():
    assert not _changed_by("import blastdet")


# Some libraries change the process when they are imported. They are imported first, so that what is left is ours.
FOREIGN = (
    "albumentations, onnxruntime, pycocotools.coco, scipy.stats, skimage.feature, sklearn.ensemble, skl2onnx, torch, "
    "torch.utils.tensorboard, torchvision, ultralytics"
)


@pytest.mark.slow
def test_importing_every_module_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # some of the libraries write to it
    modules = [_module(path) for path in FILES if package_of(path) != "__main__"]
    code = "\n".join(f"import {name}" for name in modules)
    assert not _changed_by(code, first=f"import {FOREIGN}")


def test_a_change_is_noticed():
    code = "os.environ['NEW'] = '1'\nthreading.excepthook = print\nclick.ClickException.exit_code = 2"
    assert set(_changed_by(code)) == {"environment", "threading.excepthook", "click's exit code"}


def test_detect_opens_no_socket_and_leaves_nothing_behind(tmp_path, monkeypatch):
    """ONNX Runtime's telemetry opens sockets that Python does not see; it shows by what it stores at home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    smear = PACKAGE.parent / "datasets/demo/smear.jpg"
    code = (
        "def hook(event, args):\n"
        "    assert not event.startswith('socket'), event\n"
        "sys.addaudithook(hook)\n"
        f"import blastdet; blastdet.detect({str(smear)!r}, mpp=(0.1, 0.1))"
    )
    _modules_after(code)
    assert not list(tmp_path.rglob("*"))
