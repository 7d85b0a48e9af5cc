"""``blastdet detect --server``: images are analyzed by a service, and its files are written here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blastdet.core.atomic_io import refuse_existing
from blastdet.core.errors import BlastdetError, ConfigError, one_line
from blastdet.inference.outputs.jobs import Job, find_jobs
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


@dataclass(frozen=True)
class RemoteRun:
    """What a service is asked, and where the answers go.

    Parameters
    ----------
    client : Client
    out : Path
        Folder.
    formats : sequence of str
        Of `FILES`.
    options : dict
        ``weights``, ``mpp``, ``min_score``.
    overwrite : bool
        Replace files of the same name.

    Raises
    ------
    ConfigError
        If a format is one that only a run on this machine writes.
    """

    client: Client
    out: Path
    formats: Sequence[str]
    options: dict[str, Any]
    overwrite: bool = False

    def __post_init__(self) -> None:
        if other := [kind for kind in self.formats if kind not in FILES]:
            raise ConfigError(f"--format: expected some of {', '.join(FILES)} with --server, got {other[0]}")


@dataclass(frozen=True)
class RemoteOutcome:
    """What became of one image."""

    name: str
    text: str = ""
    error: str = ""


def detect_remotely(paths: Sequence[Path], run: RemoteRun) -> Iterator[RemoteOutcome]:
    """Analyze all images that `paths` stand for, and yield what became of each.

    Raises
    ------
    BlastdetError
        If there is no image, or a file exists already.
    """
    jobs = find_jobs(paths, run.out)
    stems = _stems(jobs, run.out)
    files = [_file(stem, kind) for stem in stems for kind in run.formats]
    refuse_existing(files, run.overwrite)
    for job, stem in zip(jobs, stems, strict=True):
        try:
            yield RemoteOutcome(job.name, _detect(job, stem, run))
        except (BlastdetError, OSError) as error:
            line = str(error) if isinstance(error, BlastdetError) else one_line(error)
            yield RemoteOutcome(job.name, error=line if job.name in line else f"{job.name}: {line}")


def _stems(jobs: Sequence[Job], out: Path) -> list[Path]:
    """Paths of the output files without suffix; with the image's where two names differ only in it."""
    short = [Path(job.name).with_suffix("") for job in jobs]
    twice = max(Counter(short).values(), default=0) > 1
    return [out / (job.name if twice else stem) for job, stem in zip(jobs, short, strict=True)]


def _file(stem: Path, kind: str) -> Path:
    return stem.with_name(stem.name + FILES[kind][1])


def _detect(job: Job, stem: Path, run: RemoteRun) -> str:
    analysis = run.client.analyze(run.client.upload(job.path), **run.options)
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind in run.formats:
        path = _file(stem, kind)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_bytes(run.client.file(analysis, FILES[kind][0]))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    counts = run.client.result(analysis)["counts"]
    return f"{job.name}: " + ", ".join(f"{name} {n}" for name, n in counts.items())
