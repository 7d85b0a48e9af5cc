"""The house of DESIGN.md: who may import whom, how large rooms may be, and what is imported when."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "blastdet"

LEVELS = [
    {"errors"},
    {"types"},
    {"boxes", "configs", "folders", "parallel", "reports"},
    {"images", "images_pillow", "images_tiff", "resampling", "stain"},
    {"segment", "discs", "tiles", "splits", "crops", "probes", "overlap"},
    {
        "ruler",
        "colour",
        "grow",
        "formats",
        "audit",
        "synth",
        "synth_cells",
        "synth_film",
        "synth_stains",
        "cards",
        "fetch",
        "archives",
    }
    | {"recipes", "overlay"},
    {"detectors", "classifiers", "evaluation"},
    {"blasts", "scale", "pipeline", "outputs", "journal", "batch", "crop_table"},
    {"training", "robustness"},
    {"review"},
    {"cli"},
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(path: Path) -> set[str]:
    """Rooms that a module imports anywhere, inside functions too; type-checking blocks apart."""
    tree = ast.parse(path.read_text("utf-8"))
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    rooms = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = node.module == "blastdet"
            names = [f"blastdet.{alias.name}" for alias in node.names] if inside else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("blastdet.")}
    return rooms & LEVEL.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_downward(path):
    room = _room(path)
    if room in {"__init__", "__main__"}:
        return
    assert room in LEVEL, f"{room} is not in DESIGN.md's list of rooms"
    above = {other for other in _imported_rooms(path) if LEVEL[other] > LEVEL[room]}
    assert not above, f"{room} (level {LEVEL[room]}) imports {above}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_rooms_and_functions_keep_their_size(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 75, f"{node.name}: {node.end_lineno - node.lineno + 1} lines"


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
    """Every room but training and review can be imported where none of the optional packages is installed."""
    rooms = [p for p in FILES if _room(p) not in {"training", "review", "evaluation", "cli", "__main__"}]
    names = [".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for p in rooms]
    block = f"for name in {sorted(TRAINING | {'scipy', 'skimage', 'jinja2'})}: sys.modules[name] = None\n"
    _modules_after(
        block
        + "\n".join(f"import {name}" for name in names)
        + "\nfor n in list(sys.modules):\n  if sys.modules[n] is None: del sys.modules[n]"
    )


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
