"""Small datasets made by code, hypothesis strategies for them, and how two of them are compared."""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.testing import CliRunner
from hypothesis import strategies as st
from PIL import Image

from blastdet.cli.data_commands.convert import command as convert_command
from blastdet.core.constants import CELL_TYPES
from blastdet.core.types import CELL_CLASSES, ORIGINS, UNSURE_REASONS, Dataset, Detections, Sample

SIZE_WH = (64, 48)
COLUMNS = tuple(name for name in Detections.columns() if name != "boxes_xyxy")


def image_file(path: Path, size_wh: tuple[int, int] = SIZE_WH, colour: tuple[int, int, int] = (200, 180, 190)) -> Path:
    """A plain picture; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_wh, colour).save(path)
    return path


def heed_interrupts() -> None:
    """For `preexec_fn`: a shell starts background jobs deaf to SIGINT, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def limited_files(size: int) -> Iterator[None]:
    """No file can become larger, as on a full disk. Python would write half of its caches: it writes none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = before


def kill_after_an_epoch(folder: Path, run: str, *words: str) -> None:
    """Start ``blastdet train`` with `words` in `folder`, and kill -9 it as soon as `run` holds a checkpoint."""
    command = [sys.executable, "-m", "blastdet", "train", *words, "--out", run]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (folder / run / "last.pt.sha256").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def cell_image(kind: str, rng: np.random.Generator, side: int) -> np.ndarray:
    """A disc: large and dark, or small and pale."""
    ys, xs = np.mgrid[:side, :side] - side / 2 + 0.5
    radius, colour = (0.38, (90, 50, 140)) if kind == "blast" else (0.2, (190, 150, 200))
    disc = np.clip(side * radius - np.hypot(xs, ys) + 0.5, 0, 1)[..., None]
    film = 240 * (1 - disc) + np.array(colour) * disc
    return np.clip(film + rng.normal(0, 4, film.shape), 0, 255).astype(np.uint8)


def run_blastdet(folder: Path, *words: str, code: int = 0) -> str:
    """What the program says when run in `folder`, its exit code checked."""
    command = [sys.executable, "-m", "blastdet", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    check_options_named(words, done.stdout + done.stderr)
    return done.stdout + done.stderr


def run_in_process(folder: Path, *words: str, code: int = 0) -> str:
    """As `run_blastdet`, but in this process, which saves the seconds that torch takes to load."""
    from blastdet.cli import cli

    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a process of its own
        done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == code, done.output
    check_options_named(words, done.output)
    return done.output


def check_options_named(words: Sequence[object], said: str) -> None:
    """Every option that a message names is one of the command that printed it, or of the command that it names."""
    from blastdet.cli import cli

    typed = {str(word).partition("=")[0] for word in words}
    if "--help" in typed:
        return
    for line in said.splitlines():
        for found in re.finditer(r"(?<![\w-])--[a-z][a-z-]*[a-z]", line):
            named = re.findall(r"blastdet (\w+(?: export)?)", line[: found.start()])
            options = options_of(cli, named[-1].split() if named else words)
            assert found[0] in typed | options, f"{found[0]} is no option of {' '.join(map(str, words[:2]))}: {line}"


def options_of(group: Any, words: Sequence[object]) -> set[str]:
    """Options of the command that the first words name."""
    command, context = group, click.Context(group)
    for word in map(str, words):
        if not isinstance(command, click.Group):
            break
        if (found := command.get_command(context, word)) is None:
            found = command.commands.get("images") if command.name == "review" and not word.startswith("-") else None
        if found is None:
            break
        command = found
    return {"--help", *(option for one in command.params for option in (*one.opts, *one.secondary_opts))}


def voc_xml(objects: Iterable[tuple[object, ...]], size_wh: tuple[int, int] = SIZE_WH) -> str:
    """A VOC file with objects ``(name, xmin, ymin, xmax, ymax)``."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    cells = ""
    for name, *box in objects:
        inner = "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True))
        cells += f"<object><name>{name}</name><bndbox>{inner}</bndbox></object>"
    size = f"<size><width>{size_wh[0]}</width><height>{size_wh[1]}</height><depth>3</depth></size>"
    return f"<annotation><folder>RBC</folder><path>C:\\x</path>{size}{cells}</annotation>"


def voc(root: Path, files: Mapping[str, str], sets: Mapping[str, Iterable[str]] | None = None) -> Path:
    """A folder like BCCD's, with one picture for each XML text."""
    (root / "Annotations").mkdir(parents=True)
    for i, (stem, text) in enumerate(files.items()):
        image_file(root / "JPEGImages" / f"{stem}.jpg", colour=(200, i % 256, 10))
        (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
    for name, stems in (sets or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
    return root


_words = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), max_size=6)
_f32 = {"width": 32, "allow_nan": False}


@st.composite
def cells(draw: st.DrawFn, size_wh: tuple[int, int] = SIZE_WH) -> Detections:
    """Truth with any mix of boxes and points, and any columns of `Detections`."""
    n = draw(st.integers(0, 5))
    boxes = np.full((n, 4), np.nan, np.float32)
    for i in range(n):
        if draw(st.booleans()) or draw(st.booleans()):
            x, y = (draw(st.floats(0, side - 1)) for side in size_wh)
            w, h = (draw(st.floats(0.125, side - start)) for side, start in zip(size_wh, (x, y), strict=True))
            boxes[i] = x, y, min(x + w, size_wh[0]), min(y + h, size_wh[1])
    pointlike = np.isnan(boxes[:, 0])
    points = [[draw(st.floats(0, side, **_f32)) for side in size_wh] for _ in range(n)]
    fraction, nan, k = st.floats(0, 1, **_f32), st.just(math.nan), len(CELL_TYPES)
    columns = {
        "score": fraction,
        "id": _words.map(lambda text: text.rstrip("\0")),
        "ignore": st.booleans(),
        "origin": st.sampled_from(ORIGINS),
        "cell_type": _words,
        "blast_probability": st.one_of(fraction, nan),
        "unsure": st.booleans(),
        "unsure_reason": st.sampled_from(("", *UNSURE_REASONS)),
        "type_probability": st.lists(st.one_of(fraction, nan), min_size=k, max_size=k) | st.just([math.nan] * k),
    }
    assert {*columns, "label", "point_xy"} == set(COLUMNS), "draw every column of Detections"
    chosen = {k: [draw(v) for _ in range(n)] for k, v in columns.items() if draw(st.booleans())}
    if pointlike.any() or draw(st.booleans()):
        chosen["point_xy"] = points
    return Detections(boxes, label=[draw(st.integers(0, 3)) for _ in range(n)], **chosen)


@st.composite
def smears(draw: st.DrawFn, path: Path) -> Sample:
    """A smear with anything known or unknown."""
    text = st.one_of(st.none(), _words.filter(bool))
    scale = st.floats(0.01, 10)
    truth = draw(st.one_of(st.none(), cells()))
    return Sample(
        path,
        SIZE_WH,
        mpp=draw(st.one_of(st.none(), st.tuples(scale, scale))),
        group=draw(text),
        cluster=draw(text),
        split=draw(st.sampled_from((None, "train", "val", "test"))),
        label=draw(text),
        annotated=tuple(name for name in CELL_CLASSES if truth is not None and draw(st.booleans())),
        truth=truth,
    )


@st.composite
def datasets(draw: st.DrawFn, root: Path, n: int = 3) -> Dataset:
    """A dataset of the images ``0.png`` to ``n-1.png`` of `root`."""
    notes = draw(st.lists(_words, max_size=2, unique=True))
    return Dataset(
        draw(_words.filter(bool)),
        root,
        tuple(draw(smears(root / f"{i}.png")) for i in range(n)),
        dropped=tuple(draw(st.lists(_words, max_size=2, unique=True))),
        notes=tuple(notes),
    )


def same_cells(a: Detections | None, b: Detections | None, tolerance: float = 0.0) -> None:
    """Fail unless both have the same cells in the same order."""
    assert (a is None) == (b is None)
    if a is None or b is None:
        return
    assert len(a) == len(b)
    np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, rtol=0, atol=tolerance)
    for name in COLUMNS if len(a) else ():
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            np.testing.assert_array_equal(left, right, err_msg=name)


def same_smears(a: Dataset, b: Dataset, tolerance: float = 0.0) -> None:
    """Fail unless both have the same samples, matched by the stem of their images."""
    found = {sample.path.stem: sample for sample in b}
    assert sorted(found) == sorted(sample.path.stem for sample in a)
    for sample in a:
        other = found[sample.path.stem]
        for field in ("size_wh", "mpp", "group", "cluster", "split", "label", "annotated"):
            assert getattr(sample, field) == getattr(other, field), field
        same_cells(sample.truth, other.truth, tolerance)


def convert(*arguments: object) -> str:
    """What ``blastdet convert`` prints; its errors are raised."""
    result = CliRunner().invoke(convert_command, [str(a) for a in arguments])
    if result.exception:
        raise result.exception
    return result.output


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 70), st.floats(), st.text("ab./é", max_size=3), st.just("../..")
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text("ab", max_size=3), inner, max_size=2)),
    max_leaves=4,
)


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """`value` with something at a random place in it replaced or removed."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return draw(JSON)
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    copy = value.copy()
    if draw(st.integers(0, 9)) == 0:
        del copy[key]
    else:
        copy[key] = draw(damaged(value[key]))
    return copy
