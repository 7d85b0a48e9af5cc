"""Many smears: names, files written, failures listed, several at a time, resumed where a run was cut short."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import locked
from blastdet.core.errors import BlastdetError
from blastdet.core.model_card import sha256_of
from blastdet.core.parallel import map_ordered
from blastdet.core.results import SmearReport
from blastdet.imaging.io import Source, find_images, open_smear
from blastdet.inference import second_stage
from blastdet.inference.pipeline import Models, Options, detect_source
from blastdet.inference.run_log import RunLog
from blastdet.inference.scale import ScaleEstimate, estimate_scale
from blastdet.inference.writers import (
    COCO_FILE,
    FIELD_MM2,
    FORMATS,
    SUFFIXES,
    coco_entry,
    summary,
    write_coco,
    write_smear,
)


@dataclass(frozen=True)
class Job:
    """One picture and the name that output files and reports give it."""

    path: Path
    name: str


@dataclass(frozen=True)
class Outcome:
    """What became of one smear, as a line to print."""

    line: str
    failed: bool = False
    entry: dict[str, Any] | None = None
    """For the journal, where there is something to note."""


def find_jobs(paths: Sequence[Path], out: Path) -> list[Job]:
    """Pictures that the paths stand for, named relative to the folder that was given.

    Where two would get one name, all are named relative to the folder they have in common. What lies in the output
    folder is no smear, unless that is what a path names.
    """
    jobs: dict[Path, Job] = {}
    results = Path(os.path.realpath(out))
    for given in paths:
        root = given if given.is_dir() else _fixed_part(given)
        for path in find_images(given):
            real = Path(os.path.realpath(path))  # Path.resolve() raises on a loop of links
            if real.is_relative_to(results) and not Path(os.path.realpath(given)).is_relative_to(results):
                continue
            name = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
            jobs.setdefault(real, Job(path, name.as_posix()))
    if len({job.name for job in jobs.values()}) < len(jobs):
        common = Path(os.path.commonpath([path.parent for path in jobs]))
        return [Job(job.path, path.relative_to(common).as_posix()) for path, job in jobs.items()]
    return list(jobs.values())


def _fixed_part(pattern: Path) -> Path:
    """Folder of a file, or of a pattern's part before the first wildcard."""
    parts = pattern.parts[:-1]
    first = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts))
    return Path(*parts[:first])


class Batch:
    """Run all jobs; iterate to get an `Outcome` for each.

    Parameters
    ----------
    jobs : sequence of Job
    out : Path
        Output folder; made if it does not exist.
    models : Models
    options : Options
    formats : sequence of str
        See `blastdet.inference.writers.FORMATS`.
    resume : bool
        Skip smears that the journal in `out` lists for equal settings.
    at_once : int
        Smears that are worked on at a time, each by a thread. Memory depends on it; results, and their order, do not.

    Raises
    ------
    BlastdetError
        If the output folder is no good.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        out: Path,
        models: Models,
        options: Options,
        *,
        formats: Sequence[str] = FORMATS,
        resume: bool = False,
        at_once: int = 1,
    ) -> None:
        self.jobs, self.out, self.formats, self.at_once = jobs, out, tuple(formats), at_once
        self.models, self.options = models, options
        self._lock = locked(out)
        settings = {"model": self.models.describe(), "options": asdict(self.options), "formats": sorted(self.formats)}
        self.run_log = RunLog(out, settings, resume)
        self.resume = resume
        self.failed: dict[str, str] = {}
        """Name of a smear: why it failed."""
        stems = Counter(Path(job.name).with_suffix("").as_posix() for job in jobs)
        self._full_names = max(stems.values(), default=0) > 1
        self._check_names()

    def __iter__(self) -> Iterator[Outcome]:
        postponed: list[Job] = []
        for job, outcome in map_ordered(partial(self._try, self._first), self.jobs, self.at_once):
            if outcome is None:
                postponed.append(job)
            else:
                yield self._noted(job, outcome)
        for job, outcome in map_ordered(partial(self._try, self._second), postponed, self.at_once):
            assert outcome is not None
            yield self._noted(job, outcome)

    def _noted(self, job: Job, outcome: Outcome) -> Outcome:
        """Put a smear into the journal once its files are written, or among the failures."""
        if outcome.entry is not None:
            try:
                self.run_log.add(outcome.entry)
            except OSError as error:
                outcome = Outcome(f"failed: {self._cannot_write(job, error)}", failed=True)
        if outcome.failed:
            self.failed[job.name] = outcome.line.removeprefix("failed: ")
        return outcome

    def _try(self, step: Callable[[Job], Outcome | None], job: Job) -> Outcome | None:
        try:
            job.name.encode()
            return step(job)
        except UnicodeEncodeError:
            line = f"{job.name!a}: a name that is not UTF-8; rename it"
        except BlastdetError as error:
            line = " ".join(str(error).split())
            line = line if job.name in line else f"{job.name}: {line}"
        except Exception as error:  # noqa: BLE001  # one picture's surprise must not cost the others
            line = f"{job.name}: {type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
        return Outcome(f"failed: {line}", failed=True)

    def stem(self, job: Job) -> Path:
        """Path of a job's output files without their suffix; keeps the picture's own where two differ only in it."""
        name = Path(job.name)
        return self.out / (name if self._full_names else name.with_suffix(""))

    def _files(self, job: Job) -> list[Path]:
        stem = self.stem(job)
        return [stem.with_name(stem.name + SUFFIXES[kind]) for kind in self.formats if kind in SUFFIXES]

    def _check_names(self) -> None:
        """Refuse to write one file twice, or over a picture of the run."""
        files = [file for job in self.jobs for file in self._files(job)] + [self.out / COCO_FILE, self.run_log.path]
        pictures = {os.path.realpath(job.path) for job in self.jobs}
        twice = [file for file, number in Counter(files).items() if number > 1]
        over = [file for file in files if os.path.realpath(file) in pictures]
        if twice or over:
            raise BlastdetError(f"{(twice or over)[0]}: two results, or a picture, of this name; choose another --out")

    def _skip(self, job: Job) -> Outcome | None:
        if not self.resume or not job.path.is_file() or not all(file.is_file() for file in self._files(job)):
            return None
        if not self.run_log.has(job.name, sha256_of(job.path)):
            return None
        return Outcome(f"{job.name}: done before, skipped")

    def _first(self, job: Job) -> Outcome | None:
        """Do a smear, unless its scale is in doubt and other pictures may tell it: then later."""
        if skipped := self._skip(job):
            return skipped
        with open_smear(job.path) as picture:
            source = self.models.normalize_stain(picture)
            scale = estimate_scale(source, self.options.mpp, self.models.detector)
            if scale.weak and len(self.jobs) > 1:
                return None
            return self._write(job, detect_source(source, scale, self.models, self.options), scale, picture)

    def _second(self, job: Job) -> Outcome:
        with open_smear(job.path) as picture:
            source = self.models.normalize_stain(picture)
            scale = self._consensus(source.size_wh) or estimate_scale(source, self.options.mpp, self.models.detector)
            return self._write(job, detect_source(source, scale, self.models, self.options), scale, picture)

    def _consensus(self, size_wh: tuple[int, int]) -> ScaleEstimate | None:
        """Median scale of the run's pictures of this size that many red cells measured: one camera, one objective."""
        entries = self.run_log.entries([job.name for job in self.jobs])
        measured = [e["mpp"] for e in entries if e["size_wh"] == list(size_wh) and e["mpp_measured"]]
        if not measured:
            return None
        x, y = np.median(np.array(measured), axis=0).tolist()
        return ScaleEstimate((x, y), f"red cells of {len(measured)} other pictures of this size")

    def _write(self, job: Job, report: SmearReport, scale: ScaleEstimate, picture: Source) -> Outcome:
        try:
            files = write_smear(report, job.name, self.stem(job), self.formats, picture)
            entry = coco_entry(report, job.name) if "coco" in self.formats else {}
            measured = scale.source.startswith("red cells (") and not scale.weak
        except OSError as error:
            raise BlastdetError(self._cannot_write(job, error)) from error
        note = _entry(report, job.name, entry) | {"mpp_measured": measured}
        return Outcome(describe(report, job.name, files), entry=note)

    def _cannot_write(self, job: Job, error: OSError) -> str:
        return f"{job.name}: results cannot be written to {self.out} ({error.strerror})"

    def finish(self, say: Callable[[str], None]) -> int:
        """Write the COCO file, print totals and failures; returns the number of failures."""
        names = [job.name for job in self.jobs if job.name not in self.failed]
        if "coco" in self.formats and len(self.failed) < len(self.jobs):
            path = write_coco(self.run_log.entries(names), self.models.classes, self.out / COCO_FILE)
            say(f"wrote {path}")
        done = list(self.run_log.entries(names)) if len(self.jobs) > 1 else []
        if done:
            total: Counter[str] = Counter()
            for entry in done:
                total.update(entry["sorted_counts"])
            area = sum(entry["area_mm2"] for entry in done)
            counts = ", ".join(f"{name} {number}" for name, number in total.items())
            say(f"total of {len(done)} smears: {counts}; {area:.4g} mm²; {sum(e['seconds'] for e in done):.1f} s")
            if self.models.classifier is not None:
                say("taken together, as if they were fields of one smear:")
                found = second_stage.total([entry["white_cells"] for entry in done], self.models.classifier.card)
                for line in second_stage.in_words(found):
                    say(f"  {line}")
                if warning := second_stage.warning(found):
                    say(f"  note: {warning}")
        if self.failed and len(self.jobs) > 1:
            say(f"{len(self.failed)} of {len(self.jobs)} failed:")
            for line in self.failed.values():
                say(f"  {line}")
        return len(self.failed)


def _entry(report: SmearReport, name: str, coco: dict[str, Any]) -> dict[str, Any]:
    figures = summary(report)
    return {
        "name": name,
        "image_sha256": report.image_sha256,
        "size_wh": list(report.size_wh),
        "mpp": list(report.mpp),
        "counts": figures["counts"],
        "sorted_counts": report.sorted_counts,
        "white_cells": None if (found := report.blasts) is None else found.parts,
        "area_mm2": figures["area_mm2"],
        "seconds": round(report.seconds, 3),
        **coco,
    }


def describe(report: SmearReport, name: str, files: Sequence[Path]) -> str:
    """What is printed of one smear: a small table, the scale and where it comes from, the files."""
    width, height = report.size_wh
    x, y = report.mpp
    scale = f"{x:.4g}" if abs(x / y - 1) < 1e-6 else f"{x:.4g} x {y:.4g}"
    lines = [f"{name}: {width} x {height} px, {scale} µm/px ({report.mpp_source}), {report.seconds:.2f} s"]
    lines += [f"  note: {warning}" for warning in report.warnings]
    lines.append(f"  {'class':<13}{'cells':>7}{'per mm²':>12}{f'per {FIELD_MM2} mm²':>16}")
    for cell_class, number in report.sorted_counts.items():
        density = number / report.area_mm2
        lines.append(f"  {cell_class:<13}{number:>7}{density:>12,.0f}{density * FIELD_MM2:>16.1f}")
    if report.blasts is not None:
        lines += [f"  {line}" for line in second_stage.in_words(report.blasts)]
    lines += [f"  wrote {path}" for path in files]
    return "\n".join(lines)
