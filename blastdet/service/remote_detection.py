"""``blastdet detect --server``: images are analyzed by a service, and its files are written here."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blastdet.core.atomic_io import refuse_existing, write_bytes
from blastdet.core.columns import CELL_COLUMNS
from blastdet.core.errors import BlastdetError, ServiceError, in_a_line, one_line
from blastdet.core.model_card import Card
from blastdet.datasets.formats import csv_table
from blastdet.inference.outputs.cell_record import is_cell_record
from blastdet.inference.outputs.jobs import Job, need_suffixes
from blastdet.inference.outputs.printed import describe_entry
from blastdet.inference.outputs.run_page import PAGE, page_files, sheet_rows, write_page
from blastdet.inference.outputs.run_tables import (
    CELLS_CSV,
    SUMMARY_CSV,
    WORKBOOK,
    summary_row,
    write_tables,
    write_workbook,
)
from blastdet.inference.outputs.run_totals import RunTotals
from blastdet.service.client import Client

FILES: dict[str, tuple[str, str]] = {
    "json": ("result.json", ".json"),
    "csv": ("result.csv", ".csv"),
    "coco": ("result.coco.json", ".coco.json"),
    "geojson": ("result.geojson", ".geojson"),
    "overlay": ("overlay.jpg", ".overlay.jpg"),
    "pdf": ("report.pdf", ".pdf"),
}
"""Format -> file of the service, and suffix of the file that is written."""

_JPEG, _PDF = b"\xff\xd8\xff", b"%PDF-"

RUN_FILES = {"csv": (SUMMARY_CSV, CELLS_CSV), "xlsx": (WORKBOOK,), "html": (PAGE,)}
"""Format -> files of the whole run, which are made here of what the service found."""


_Text = Annotated[str, Field(max_length=2000)]
_Count = Annotated[int, Field(ge=0, le=10**12)]
_Size = Annotated[float, Field(gt=1e-9, lt=1e9)]  # false for NaN
_Pixels = Annotated[int, Field(gt=0, lt=10**9)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Entry(_Strict):
    image_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_wh: tuple[_Pixels, _Pixels]
    mpp: tuple[_Size, _Size]
    mpp_source: _Text
    counts: dict[Literal["blast", "wbc", "unsure", "erythroblast", "smudge", "rbc", "platelet"], _Count]
    white_cells: dict[str, _Count | dict[str, _Count]] | None
    area_mm2: _Size
    warnings: list[_Text]
    cells: dict[str, Any]


class _Stage(_Strict):
    name: _Text
    mpp: _Size
    files: dict[_Text, _Text]


class _Model(_Stage):
    second_stage: _Stage | None = None


class _Part(_Strict):
    """``run.json``: what is read of it, see `RunTotals`."""

    entry: _Entry
    classes: tuple[Literal["blast", "wbc", "rbc", "platelet"], ...]
    classifier: Card | None
    model: _Model


@dataclass(frozen=True)
class RemoteRun:
    """What a service is asked, and where the answers go.

    Parameters
    ----------
    client : Client
    out : Path
        Folder.
    formats : sequence of str
        Of `FILES` and `RUN_FILES`.
    options : dict
        ``weights``, ``mpp``, ``min_score``.
    overwrite : bool
        Replace files of the same name.
    finished : callable, optional
        Called at the end with all images taken together, and the files of the run.
    """

    client: Client
    out: Path
    formats: Sequence[str]
    options: dict[str, Any]
    overwrite: bool = False
    finished: Callable[[RunTotals, list[Path]], None] | None = None


@dataclass(frozen=True)
class RemoteOutcome:
    """What became of one image.

    Parameters
    ----------
    name : str
    totals : RunTotals, optional
        The image as a run of its own; ``None`` if it failed.
    text, error : str
        All that can be said of it, or why it has no result.
    untried : int
        Images after it that were not tried, because they would have failed alike.
    """

    name: str
    totals: RunTotals | None = None
    text: str = ""
    error: str = ""
    untried: int = 0


def detect_remotely(jobs: Sequence[Job], run: RemoteRun) -> Iterator[RemoteOutcome]:
    """Analyze images, and yield what became of each.

    Raises
    ------
    BlastdetError
        If a file exists already.
    """
    stems = dict(zip((job.name for job in jobs), _stems(jobs, run.out), strict=True))
    refuse_existing(_files(stems, run), run.overwrite)
    parts: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for number, job in enumerate(jobs, start=1):
        try:
            began = time.monotonic()
            part, files = _detect(job, stems[job.name], run, parts[0] if parts else None)
            part["entry"]["seconds"] = round(time.monotonic() - began, 3)
            parts.append(part)
            alone = _totals([part], {})
            text = describe_entry(part["entry"], alone.blast_fraction, files, with_differential=len(jobs) == 1)
            yield RemoteOutcome(job.name, alone, text)
        except (BlastdetError, OSError, ValueError, RecursionError) as error:
            failed[job.name] = f"{job.name}: {_why(error, job, run.client.url)}"
            rest = jobs[number:] if isinstance(error, ServiceError) and error.concerns_all else []
            yield RemoteOutcome(job.name, error=failed[job.name], untried=len(rest))
            if rest:
                failed |= {one.name: f"{one.name}: not tried" for one in rest}
                break
    totals = _totals(parts, failed)
    files = list(_write_run(totals, stems, run)) if parts else []
    if run.finished is not None:
        run.finished(totals, files)


def _why(error: Exception, job: Job, url: str) -> str:
    """Why an image failed, without its name, and without the address of the service where that says it of the image."""
    line = str(error) if isinstance(error, BlastdetError) else one_line(error)
    status = error.status if isinstance(error, ServiceError) and not error.concerns_all else None
    if status == HTTPStatus.CONFLICT and "signed" in line:
        return "it is signed in the service, and this would be a new result. Reopen it there, or leave the image out"
    said = line.removeprefix(f"{url}: ")
    start = next((one for one in (str(job.path), job.name, job.path.name, "smear") if said.startswith(f"{one}: ")), "")
    is_of_image = bool(start) or (status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR)
    return said.removeprefix(f"{start}: ") if is_of_image else line


def _stems(jobs: Sequence[Job], out: Path) -> list[Path]:
    """Paths of the output files without suffix; with the image's where they need it."""
    is_full = need_suffixes(jobs, (name for names in RUN_FILES.values() for name in names))
    return [out / (job.name if is_full else Path(job.name).with_suffix("")) for job in jobs]


def _files(stems: Mapping[str, Path], run: RemoteRun) -> list[Path]:
    """All files that a run may write."""
    files = [_file(stem, kind) for stem in stems.values() for kind in run.formats if kind in FILES]
    files += [run.out / name for kind, names in RUN_FILES.items() if kind in run.formats for name in names]
    if "html" in run.formats:
        files += [file for stem in stems.values() for file in page_files(stem, run.out)]
    return files


def _file(stem: Path, kind: str) -> Path:
    return stem.with_name(stem.name + FILES[kind][1])


def _detect(job: Job, stem: Path, run: RemoteRun, first: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[Path]]:
    """Write the files of an image; returns its part of the run, of which `first` is the first, and the files."""
    files = []
    smear = run.client.upload(job.path)
    analysis = run.client.analyze(smear, **run.options)
    part = _part(_run_json(analysis, run.client), job.name, run.client.url)
    if first is not None and _kinds(part) != _kinds(first):
        raise ServiceError(f"{run.client.url}: expected the model of the first image, got one of other classes")
    for kind in run.formats:
        if kind in FILES:
            content = _checked(kind, run.client.file(analysis, FILES[kind][0]), run.client.url)
            if kind == "csv":  # the service may know the same bytes by another name
                content = _renamed(content, job.name, run.client.url)
            write_bytes(_file(stem, kind), content)
            files.append(_file(stem, kind))
    if "html" in run.formats:
        picture, sheet = page_files(stem, run.out)
        write_bytes(picture, _checked("picture", run.client.picture(smear), run.client.url))
        if sheet_rows(part["entry"]["cells"]):
            crops = run.client.file(analysis, "sheet.jpg", corrected=True)
            write_bytes(sheet, _checked("sheet", crops, run.client.url))
    return part, files


def _checked(kind: str, content: bytes, url: str) -> bytes:
    """Content of a file, if it is of its kind."""
    if kind == "csv":  # `_renamed` looks at it
        return content
    if kind in ("json", "coco", "geojson"):
        try:
            is_right = isinstance(json.loads(content), dict)
        except (ValueError, RecursionError):
            is_right = False
    else:
        is_right = content.startswith(_PDF if kind == "pdf" else _JPEG)
    if not is_right:
        raise _other_version(url, f"{kind}: got a file of another kind")
    return content


def _renamed(table: bytes, name: str, url: str) -> bytes:
    try:
        text = csv_table.renamed(table.decode(), name)
        if not text.startswith(csv_table.line(CELL_COLUMNS)):
            raise ValueError("columns")
        return text.encode()
    except (ValueError, csv.Error) as error:
        raise _other_version(url, one_line(error)) from None


def _run_json(analysis: str, client: Client) -> bytes:
    """``run.json``, before any file is written: an older service does not have it."""
    try:
        return client.file(analysis, "run.json")
    except ServiceError as error:
        raise (_other_version(client.url, "it has no run.json") if error.status == 404 else error) from None


def _other_version(url: str, why: str) -> ServiceError:
    return ServiceError(f"{url}: expected a service of this version of blastdet ({why})")


def _part(content: bytes, name: str, url: str) -> dict[str, Any]:
    """One image of the run, under the name that it has here: the service may know its bytes by another."""
    try:
        whole = _Part.model_validate_json(content)
        model = whole.model.model_dump(exclude_none=True)
        entry = {"name": name, **whole.entry.model_dump()}
        part = {"entry": entry, "classes": whole.classes, "classifier": whole.classifier, "model": model}
        if not is_cell_record(entry["cells"]):
            raise ValueError("cells")
        summary_row(_totals([part], {}), entry)  # the statistics of its white cells
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        where = ".".join(map(str, ("run.json", *wrong["loc"])))
        raise _other_version(url, in_a_line(f"{where}: {wrong['msg']}", 160)) from None
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise _other_version(url, one_line(error)) from None
    return part


def _kinds(part: Mapping[str, Any]) -> tuple[Any, ...]:
    """What all images of a run have in common."""
    return part["classes"], part["classifier"] is None


def _totals(parts: Sequence[Mapping[str, Any]], failed: Mapping[str, str]) -> RunTotals:
    if not parts:
        return RunTotals((), (), None, {}, failed)
    card = parts[0]["classifier"]
    entries = [part["entry"] for part in parts]
    return RunTotals(entries, tuple(parts[0]["classes"]), card, parts[0]["model"], failed)


def _write_run(totals: RunTotals, stems: Mapping[str, Path], run: RemoteRun) -> Iterator[Path]:
    """The tables and the page of all images that went well."""
    run.out.mkdir(parents=True, exist_ok=True)
    try:
        if "csv" in run.formats:
            names = (entry["name"] for entry in totals.entries)
            yield from write_tables(totals, (_file(stems[name], "csv") for name in names), run.out)
        if "xlsx" in run.formats:
            yield write_workbook(totals, run.out)
        if "html" in run.formats:
            yield write_page(totals, stems, run.out)
    except OSError as error:
        raise BlastdetError(f"{run.out}: cannot be written to ({one_line(error)})") from error
