"""Fuzzing: mutated files of every kind that a user may hand over, read through the API (``make fuzz``).

Each file is a valid one with random damage, fixed by the seed and its number. Allowed is a result, or a `BlastdetError`
with one bounded, printable line. A traceback, a crash, more than `TIMEOUT_S` for one file, or more than `MEMORY`
is a fault; its file is kept. Files are read by worker processes, so that a hang or a crash costs one file.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from made import image_file, voc, voc_xml
from PIL import Image

TIMEOUT_S = 20.0  # of processor time for one file; the clock may show ten times as much on a busy machine
MEMORY = 4 << 30  # bytes of address space of a worker
_START_S = 600.0  # until a worker has imported what it needs
_LONGEST = 2100  # characters of a message
_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"

HOSTILE: tuple[Any, ...] = (
    None, True, "", 0, -1, 1e39, 1e308, float("inf"), float("nan"), 2**63, 10**400, [], {}, [[]], [None], "\0",
    "../../x", "\x1b[2J", "a\nb", "$x_{1", "=1+1", "\ud800", "x" * 5000, "nan", "1e400", [1e400] * 4, {"a": {"a": {}}},
)  # fmt: skip
"""Values that replace one of a JSON document."""

TOKENS = (
    "1e400", "-1", "nan", "inf", "0", "99999999999999999999", "1" + "0" * 5000, "null", "[]", "{}", '""', "true",
    "\\ud800", "&a [*a]", "*a", "!!python/object:os.x", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "<a>" * 2000,
    "[" * 2000, "$", "%", "'", "\x1b[2J", "\u202e", "\x00", "../", "/etc/passwd", "=1+1", "\n", "\r", "- ", ": ",
)  # fmt: skip
"""Pieces of text that replace a number or word, or are put in."""


@dataclass(frozen=True)
class Target:
    """One kind of file: a folder with a valid one, and how it is read."""

    name: str
    file: str
    make: Callable[[Path], None]
    read: Callable[[Path, Path], object]
    """Called with the folder, and an empty one to write to."""


def _picture(options: dict[str, Any], name: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        rgb = np.random.default_rng(1).integers(0, 255, (40, 56, 3), np.uint8).repeat(2, 0).repeat(2, 1)
        Image.fromarray(rgb).save(root / name, **options)

    return make


def _tiff(**options: Any) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        rgb = np.random.default_rng(2).integers(0, 255, (64, 64, 3), np.uint8)
        tifffile.imwrite(root / "a.tif", rgb, photometric="rgb", **options)

    return make


def _read_image(root: Path, out: Path) -> None:
    from blastdet.imaging.io import open_smear
    from blastdet.imaging.optical_density import faults_of

    (file,) = (path for path in root.iterdir() if path.is_file())
    with open_smear(file) as source:
        width, height = source.size_wh
        scale = max(0.001, min(1.0, 200 / max(width, height)))  # the smallest that a source accepts
        rgb = source.read(None, (max(scale, 1 / width), max(scale, 1 / height)))
        faults_of(rgb, 0.1)


def _set(root: Path) -> dict[str, Any]:
    image_file(root / "a.jpg")
    rows = [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 30, 20], "blast_probability": 0.5, "score": 0.5},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [9, 9, 20, 20], "iscrowd": 1, "area": 400},
    ]
    image = {
        "id": 1,
        "file_name": "a.jpg",
        "width": 64,
        "height": 48,
        "mpp": [0.1, 0.1],
        "group": "g",
    }
    names = [{"id": 2, "name": "wbc"}, {"id": 3, "name": "rbc"}]
    return {"info": {"description": "d"}, "images": [image], "annotations": rows, "categories": names}


def _coco(root: Path) -> None:
    (root / "instances.json").write_text(json.dumps(_set(root)))


def _results(root: Path) -> None:
    document = _set(root)
    (root / "instances.json").write_text(json.dumps(document))
    (root / "found.json").write_text(json.dumps([{**row, "score": 0.9} for row in document["annotations"]]))


def _geojson(root: Path) -> None:
    from blastdet.core.types import Detections
    from blastdet.datasets.formats import geojson

    image_file(root / "a.jpg")
    cells = Detections([[1, 1, 20, 20], [3, 3, 9, 9]], blast_probability=[0.1, 0.2], point_xy=[[5, 5], [6, 6]])
    geojson.write_cells(root / "a.geojson", cells, (0.1, 0.1))


def _voc(root: Path) -> None:
    root.rmdir()
    voc(root, {"a": voc_xml([("wbc", 1, 1, 20, 20), ("rbc", 3, 3, 9, 9)])}, {"train": ["a"]})


def _yolo(root: Path) -> None:
    from blastdet.core.types import Dataset, Detections, Sample
    from blastdet.datasets.formats import yolo

    cells = Detections([[1, 1, 20, 20], [3, 3, 9, 9]], label=[1, 2], ignore=[False, True])
    sample = Sample(image_file(root / "in" / "a.jpg"), (64, 48), split="train", annotated=("wbc", "rbc"), truth=cells)
    yolo.write(Dataset("d", root / "in", (sample,)), root)


def _corrections(root: Path) -> None:
    (root / "instances.json").write_text(json.dumps(_set(root)))
    one = {"who": "A", "when": "2026-01-01T00:00:00Z", "image": "a.jpg", "box_xyxy": [1, 2, 31, 22], "op": "class"}
    lines = [{**one, "old_class": "wbc", "new_class": "blast"}, {**one, "op": "delete", "old_class": "wbc"}]
    (root / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _cvat(root: Path) -> None:
    image_file(root / "images" / "a.jpg")
    labels = "<label><name>wbc</name></label><label><name>rbc</name></label>"
    shapes = """<box label="wbc" xtl="1.0" ytl="2" xbr="11.5" ybr="22" rotation="30" source="manual"></box>
<polygon label="rbc" points="5.0,5.0;15.0,7.0;9.0,30.0"></polygon>
<ellipse label="wbc" cx="30" cy="20" rx="6" ry="3" rotation="90"></ellipse>
<mask label="rbc" rle="0, 8" left="2" top="3" width="4" height="2"></mask>"""
    image = f'<image id="0" name="a.jpg" width="64" height="48">{shapes}</image>'
    text = f"<annotations><meta><task><labels>{labels}</labels></task></meta>{image}</annotations>"
    (root / "annotations.xml").write_text(text)


def _label_studio(root: Path) -> None:
    image_file(root / "a.jpg")
    common = {"from_name": "label", "to_name": "image", "original_width": 64, "original_height": 48}
    box = {"x": 50, "y": 25, "width": 25, "height": 50, "rotation": 30, "rectanglelabels": ["wbc"]}
    ring = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5, "ellipselabels": ["rbc"]}
    outline = {"points": [[0, 0], [50, 10], [25, 100]], "polygonlabels": ["rbc"]}
    result = [{**common, "type": next(reversed(value)), "value": value} for value in (box, ring, outline)]
    task = {"data": {"image": "/data/upload/1/1a2b3c4d-a.jpg"}, "annotations": [{"result": result}]}
    (root / "tasks.json").write_text(json.dumps([task]))


def _via(root: Path) -> None:
    image_file(root / "a.jpg")
    shapes: list[dict[str, object]] = [
        {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 20},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 6, "ry": 3, "theta": 0.5},
        {"name": "polygon", "all_points_x": [5, 15, 9], "all_points_y": [5, 7, 30]},
    ]
    regions = [{"shape_attributes": shape, "region_attributes": {"type": "wbc"}} for shape in shapes]
    entries = {"a.jpg1": {"filename": "a.jpg", "size": 1, "regions": regions, "file_attributes": {}}}
    options = {"region": {"type": {"type": "radio", "options": {"wbc": "", "rbc": ""}}}}
    (root / "via.json").write_text(json.dumps({"_via_img_metadata": entries, "_via_attributes": options}))


def _labelme(root: Path) -> None:
    image_file(root / "a.jpg")
    shapes = [
        {"label": "wbc", "points": [[1, 2], [11, 22]], "shape_type": "rectangle"},
        {"label": "rbc", "points": [[30, 20], [33, 24]], "shape_type": "circle"},
        {"label": "rbc", "points": [[5, 5], [15, 7], [9, 30]], "shape_type": "polygon"},
    ]
    document = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 48, "imageWidth": 64}
    (root / "a.json").write_text(json.dumps(document))


def _supervisely(root: Path) -> None:
    image_file(root / "img" / "a.jpg")
    (root / "ann").mkdir()
    shapes = {"rectangle": [[1, 2], [10, 21]], "polygon": [[5, 5], [15, 7], [9, 30]]}
    objects = [{"classTitle": "wbc", "geometryType": k, "points": {"exterior": v}} for k, v in shapes.items()]
    (root / "ann" / "a.jpg.json").write_text(json.dumps({"size": {"height": 48, "width": 64}, "objects": objects}))


def _coco_masks(root: Path) -> None:
    document = _set(root)
    masks = [{"size": [48, 64], "counts": [780, 24, 24, 24]}, [[16, 12, 32, 20, 20, 36]]]
    rows = zip(document["annotations"], masks, strict=False)
    document["annotations"] = [{**row, "bbox": [], "segmentation": mask} for row, mask in rows]
    (root / "instances.json").write_text(json.dumps(document))


def _read_set(root: Path, out: Path) -> None:
    """Read it, leniently too, and write it in every format: what a reader lets pass must not fail at a writer."""
    from blastdet.core.errors import BlastdetError
    from blastdet.datasets.formats import registry

    refused = None
    for strict in (True, False):
        try:
            data = registry.read(root, strict=strict)
        except BlastdetError as error:
            refused = refused or error
        else:
            for name in registry.WRITERS:
                registry.write(data, out / f"{strict}-{name}", name)
    if refused is not None:
        raise refused


def _read_results(root: Path, out: Path) -> None:
    from blastdet.datasets.formats import coco
    from blastdet.datasets.formats.coco_results import ids_in_words, read_results

    dataset = coco.read(root / "instances.json")
    read_results(root / "found.json", dataset)
    ids_in_words(dataset)


def _read_corrections(root: Path, out: Path) -> None:
    from blastdet.datasets.apply_corrections import apply_corrections
    from blastdet.datasets.formats import coco

    dataset = apply_corrections(coco.read(root / "instances.json"), root / "c.jsonl")
    coco.write(dataset, out)


def _card(root: Path) -> None:
    from blastdet.core.model_card import find_weights, read_card, sha256_of, write_card

    (root / "model.onnx").write_bytes(b"model")
    files = {"model.onnx": sha256_of(root / "model.onnx")}
    write_card(read_card(find_weights("differential")).model_copy(update={"files": files}), root)


def _read_card(root: Path, out: Path) -> None:
    from blastdet.core.model_card import read_card, write_card

    write_card(read_card(root), out)


def _config(root: Path) -> None:
    shutil.copyfile(Path(__file__).parents[1] / "configs" / "default.yaml", root / "a.yaml")


def _read_config(root: Path, out: Path) -> None:
    from blastdet.training.config_file import read_any, to_yaml

    to_yaml(read_any(root / "a.yaml"))


def _archive(root: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d/a.txt", "a" * 100)
        archive.writestr("d/b.txt", bytes(range(256)))
    (root / "a.zip").write_bytes(content.getvalue())


def _read_archive(root: Path, out: Path) -> None:
    from blastdet.datasets.archives import open_source, without_common_folder

    with open_source(root / "a.zip") as members:
        for member in without_common_folder(members):
            member.read()


def _model(root: Path) -> None:
    shutil.copyfile(Path(__file__).parents[1] / "weights" / "default" / "model.onnx", root / "model.onnx")


def _read_model(root: Path, out: Path) -> None:
    from blastdet.models.external_data import external_files

    external_files(root / "model.onnx")


TARGETS: tuple[Target, ...] = (
    Target("jpeg", "a.jpg", _picture({"quality": 90}, "a.jpg"), _read_image),
    Target("jpeg, progressive", "a.jpg", _picture({"progressive": True, "exif": _EXIF}, "a.jpg"), _read_image),
    Target("png", "a.png", _picture({}, "a.png"), _read_image),
    Target("bmp", "a.bmp", _picture({}, "a.bmp"), _read_image),
    Target("webp", "a.webp", _picture({}, "a.webp"), _read_image),
    Target("tiff, strips", "a.tif", _tiff(rowsperstrip=16, compression="zlib"), _read_image),
    Target("tiff, tiles", "a.tif", _tiff(tile=(32, 32), compression="jpeg"), _read_image),
    Target("tiff, plain", "a.tif", _tiff(imagej=False, resolution=(1e5, 1e5), resolutionunit=3), _read_image),
    Target("coco", "instances.json", _coco, _read_set),
    Target("results list", "found.json", _results, _read_results),
    Target("geojson", "a.geojson", _geojson, _read_set),
    Target("voc", "Annotations/a.xml", _voc, _read_set),
    Target("yolo labels", "labels/train/a.txt", _yolo, _read_set),
    Target("yolo data.yaml", "data.yaml", _yolo, _read_set),
    Target("yolo sidecar", "blastdet.json", _yolo, _read_set),
    Target("coco, masks", "instances.json", _coco_masks, _read_set),
    Target("cvat", "annotations.xml", _cvat, _read_set),
    Target("label studio", "tasks.json", _label_studio, _read_set),
    Target("via", "via.json", _via, _read_set),
    Target("labelme", "a.json", _labelme, _read_set),
    Target("supervisely", "ann/a.jpg.json", _supervisely, _read_set),
    Target("corrections", "c.jsonl", _corrections, _read_corrections),
    Target("card", "card.json", _card, _read_card),
    Target("configuration", "a.yaml", _config, _read_config),
    Target("archive", "a.zip", _archive, _read_archive),
    Target("model", "model.onnx", _model, _read_model),
)


@cache
def valid(number: int) -> bytes:
    """The valid file of a target."""
    target = TARGETS[number]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "d"
        root.mkdir()
        target.make(root)
        return (root / target.file).read_bytes()


def mutated(seed: int, number: int) -> tuple[Target, bytes]:
    """Target and content of the file with that number."""
    kind = number % len(TARGETS)
    rng = random.Random(f"{seed} {number}")
    target, data = TARGETS[kind], valid(kind)
    suffix = Path(target.file).suffix
    if suffix in (".json", ".geojson", ".jsonl") and rng.random() < 0.5:
        return target, _json(data, rng, lines=suffix == ".jsonl")
    if suffix in (".json", ".geojson", ".jsonl", ".xml", ".txt", ".yaml") and rng.random() < 0.8:
        return target, _text(data.decode(), rng).encode("utf-8", "surrogatepass")
    return target, _bytes(data, rng)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        # Most of the structure of an image is at its start.
        size = max(len(content), 1)
        at = min(int(rng.random() ** rng.choice((1, 4)) * size), size - 1)
        span = rng.choice((1, 2, 4, 8, 64))
        match rng.randrange(7):
            case 0 if content:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at : at + span] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"\x01")) * span
            case 2:
                del content[at : at + span]
            case 3:
                content[at:at] = content[at : at + span]
            case 4 if rng.random() < 0.3:
                del content[at:]
            case 5:
                content[at : at + span] = rng.randbytes(span)
            case 6:
                other = rng.randrange(size)
                content[at : at + span] = content[other : other + span]
    return bytes(content)


def _text(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(re.finditer(r"[\w.+-]+", text))
        place = rng.choice(places) if places else None
        token = rng.choice(TOKENS)
        if place is not None and rng.random() < 0.6:
            text = text[: place.start()] + token + text[place.end() :]
        elif rng.random() < 0.5:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + token + text[at:]
        else:
            lines = text.splitlines(keepends=True)
            at = rng.randrange(len(lines)) if lines else 0
            lines[at : at + 1] = lines[at : at + 1] * rng.choice((0, 2))
            text = "".join(lines)
    return text


def _json(data: bytes, rng: random.Random, lines: bool) -> bytes:
    documents = [json.loads(line) for line in data.splitlines()] if lines else [json.loads(data)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(documents))
        holder, key = rng.choice(places)
        if rng.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
        elif rng.random() < 0.1 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = rng.choice(HOSTILE)
    texts = [json.dumps(document) for document in documents]
    return ("\n".join(texts)).replace("Infinity", rng.choice(("Infinity", "1e400"))).encode()


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of a document, as its holder and key."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


def fault_of(target: Target, content: bytes, folder: Path) -> tuple[bool, str | None]:
    """Read one file. Returns whether it was accepted, and what is wrong, if anything."""
    from blastdet.core.errors import BlastdetError, printable

    root, out = folder / "d", folder / "out"
    for path in (root, out):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    target.make(root)
    (root / target.file).write_bytes(content)
    try:
        target.read(root, out)
    except BlastdetError as error:
        text = str(error)
        if len(text) > _LONGEST or text != printable(text):
            return False, f"message of {len(text)} characters: {text[:200]!r}"
        return False, None
    except Exception as error:  # noqa: BLE001  # what this program looks for
        last = traceback.extract_tb(error.__traceback__)[-1]
        return False, f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})"
    return True, None


def _peak_kib() -> int:
    """Most memory of this process. `getrusage` would count that of the process it was started from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _work(connection: Connection, seed: int, numbers: list[int]) -> None:
    """Read files one after the other; says which before, and what came of it after."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for number, target in enumerate(TARGETS):  # loads what the readers need, so that it takes no file's time
            fault_of(target, valid(number), Path(folder))
        for number in numbers:
            connection.send((number, None, None))
            signal.setitimer(signal.ITIMER_PROF, TIMEOUT_S)  # its signal ends the process, wherever it is
            accepted, fault = fault_of(*mutated(seed, number), Path(folder))
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send((number, accepted, fault))
        connection.send((-1, None, str(_peak_kib())))


@dataclass
class Found:
    """Outcome of a run."""

    read: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)
    peak_mib: int = 0
    seconds: float = 0.0


def fuzz(seed: int, files: int, workers: int = 2) -> Found:
    """Read so many files, each in one of the worker processes."""
    found, start = Found(), time.monotonic()
    context = multiprocessing.get_context("spawn")
    waiting = [list(range(i, files, workers)) for i in range(workers)]
    running: dict[Connection, tuple[Any, list[int], int, float]] = {}

    def begin(numbers: list[int]) -> None:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(there, seed, numbers), daemon=True)
        process.start()
        there.close()
        running[here] = (process, numbers, -1, time.monotonic() + _START_S)

    def lose(connection: Connection, why: str) -> None:
        process, numbers, now, _ = running.pop(connection)
        process.kill()
        process.join()
        connection.close()
        found.faults[now] = why
        if now >= 0:
            found.read[TARGETS[now % len(TARGETS)].name] += 1
        rest = numbers[numbers.index(now) + 1 :] if now >= 0 else []
        if rest:
            begin(rest)

    for numbers in waiting:
        if numbers:
            begin(numbers)
    while running:
        for connection in multiprocessing.connection.wait(list(running), timeout=0.5):
            assert isinstance(connection, Connection)
            process, numbers, _, _ = running[connection]
            try:
                number, accepted, fault = connection.recv()
            except EOFError:
                process.join()
                slow = process.exitcode == -signal.SIGPROF
                lose(connection, f"more than {TIMEOUT_S:g} s" if slow else f"the process ended with {process.exitcode}")
                continue
            if number < 0:
                found.peak_mib = max(found.peak_mib, int(fault) // 1024)
                process.join()
                running.pop(connection)
            elif accepted is None:
                running[connection] = (process, numbers, number, time.monotonic() + 10 * TIMEOUT_S)
            else:
                name = TARGETS[number % len(TARGETS)].name
                found.read[name] += 1
                found.accepted[name] += accepted
                if fault is not None:
                    found.faults[number] = fault
        for connection, (_, _, _, deadline) in list(running.items()):
            if time.monotonic() > deadline:
                lose(connection, f"more than {10 * TIMEOUT_S:g} s")
    found.seconds = time.monotonic() - start
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Read mutated files through the API.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--number", type=int, help="read this file only, in this process")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for files that show a fault")
    asked = parser.parse_args()
    if asked.number is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(TARGETS[asked.number % len(TARGETS)].name, fault_of(*mutated(asked.seed, asked.number), Path(folder)))
        return 0
    found = fuzz(asked.seed, asked.files, asked.workers)
    for name, n in found.read.items():
        print(f"{name:<20}{n:>6} files, {found.accepted[name]:>6} accepted")
    for number, fault in sorted(found.faults.items()):
        if number < 0:
            print(f"FAULT: no worker could start: {fault}")
            continue
        target, content = mutated(asked.seed, number)
        asked.keep.mkdir(parents=True, exist_ok=True)
        (asked.keep / f"{asked.seed}-{number}{Path(target.file).suffix}").write_bytes(content)
        print(f"FAULT {number} ({target.name}): {fault}")
    print(
        f"seed {asked.seed}: {sum(found.read.values())} files, {len(found.faults)} faults, {found.seconds:.0f} s, "
        f"peak memory {found.peak_mib} MiB"
    )
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
