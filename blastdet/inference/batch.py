"""Many images: output files, failures, several at a time, resumed after an interruption."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import locked
from blastdet.core.errors import BlastdetError, in_a_line, one_line
from blastdet.core.model_card import sha256_of
from blastdet.core.parallel import map_ordered
from blastdet.imaging.io import Source, open_smear
from blastdet.inference.folder_scale import FolderScales, analyze_in_run
from blastdet.inference.model import Model, Options
from blastdet.inference.outputs.cell_record import cell_record
from blastdet.inference.outputs.jobs import Job, need_suffixes
from blastdet.inference.outputs.printed import describe
from blastdet.inference.outputs.run_page import PAGE, page_files, without_sheet, write_page, write_page_files
from blastdet.inference.outputs.run_tables import CELLS_CSV, SUMMARY_CSV, WORKBOOK, write_tables, write_workbook
from blastdet.inference.outputs.run_totals import RunTotals, entry_of
from blastdet.inference.result import Result
from blastdet.inference.run_log import WITH_CELLS, Existing, RunLog
from blastdet.inference.scale import ScaleEstimate, estimate_scale
from blastdet.inference.writers import (
    COCO_FILE,
    FORMATS,
    SUFFIXES,
    coco_entry,
    software,
    write_coco,
    write_result,
)

_SHOWN_REDONE = 5  # images in one line
RUN_FILES: dict[str, tuple[str, ...]] = {
    "coco": (COCO_FILE,),
    "csv": (SUMMARY_CSV, CELLS_CSV),
    "xlsx": (WORKBOOK,),
    "html": (PAGE,),
}
"""Format -> files of the whole run."""

PDF = ".pdf"
_OF_COCO = ("image", "annotations")  # of an entry; they may be large


@dataclass(frozen=True)
class Output:
    """Where and how a run writes.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    formats : tuple of str
        See `blastdet.inference.writers.FORMATS`.
    existing : {"refuse", "resume", "overwrite"}
        What to do where the folder holds a run already. ``"resume"`` skips images that it finished with equal settings.
        ``"overwrite"`` removes the files that it wrote; those of other programs stay.
    at_once : int
        Images processed at a time, each by a thread. Memory depends on it; results and their order do not.
    hidden : tuple of str
        What the overlays leave out and the page hides at first: some of `blastdet.inference.result.KINDS`.
    """

    folder: Path
    formats: tuple[str, ...] = FORMATS
    existing: Existing = "refuse"
    at_once: int = 1
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Parameters
    ----------
    name : str
    text : str
        All that can be said of a finished image.
    error : str, optional
        Why it failed.
    entry : dict, optional
        For the run log; ``None`` for an image that failed, or was finished before.
    """

    name: str
    text: str = ""
    error: str | None = None
    entry: dict[str, Any] | None = None


class Batch:
    """Process all jobs; iterate to get an `Outcome` for each.

    Parameters
    ----------
    jobs : sequence of Job
    model : Model
    options : Options
    output : Output

    Raises
    ------
    BlastdetError
        If the output folder cannot be used.
    """

    def __init__(self, jobs: Sequence[Job], model: Model, options: Options, output: Output) -> None:
        self.jobs, self.model, self.options, self.output = jobs, model, options, output
        self.failed: dict[str, str] = {}
        """Name of an image: why it failed."""
        self.redone: dict[str, str] = {}
        """Name of an image that is done again: the file that was not as the earlier run wrote it."""
        self._names = {job.name for job in jobs}
        self._scales = FolderScales([job.path for job in jobs], model, options.mpp)
        self._full_names = need_suffixes(jobs, (name for names in RUN_FILES.values() for name in names))
        settings = {
            "model": model.describe(),
            "options": asdict(options),
            "formats": sorted(output.formats),
            **({"hidden": sorted(output.hidden)} if output.hidden else {}),
            "versions": dict(software()),
        }
        self._lock = locked(output.folder)
        try:
            self._check_names()
            files, images = self._all_files(), [job.path for job in jobs]
            # The files of the run are only replaced by a run that succeeds on some image.
            self.run_log = RunLog(output.folder, settings, output.existing, files, [*images, *self._run_files()])
            finished = self.run_log.entries([job.name for job in jobs]) if output.existing == "resume" else ()
            self._without_sheet = without_sheet(finished)
        except BaseException:
            self._lock.close()
            raise

    def __iter__(self) -> Iterator[Outcome]:
        postponed: list[Job] = []
        for job, outcome in map_ordered(partial(self._try, self._first), self.jobs, self.output.at_once):
            if outcome is None:
                postponed.append(job)
            else:
                yield self._recorded(job, outcome)
        for job, outcome in map_ordered(partial(self._try, self._second), postponed, self.output.at_once):
            assert outcome is not None
            yield self._recorded(job, outcome)

    def scale_notes(self) -> list[str]:
        """What was measured for all images of one size together, and how to give it next time; one line each."""
        return self._scales.notes()

    def redone_notes(self) -> list[str]:
        """Images that an earlier run finished and that were done again all the same, in one line."""
        if not self.redone:
            return []
        names = [f"{in_a_line(name)} ({in_a_line(file)})" for name, file in sorted(self.redone.items())[:_SHOWN_REDONE]]
        more = f" and {len(self.redone) - len(names)} more" if len(self.redone) > len(names) else ""
        return [f"note: done again, a result is missing or not as it was written: {', '.join(names)}{more}"]

    def close(self) -> None:
        """Release the output folder for other runs."""
        self._lock.close()

    def _recorded(self, job: Job, outcome: Outcome) -> Outcome:
        """Add an image to the run log once its files are written, or to the failures."""
        if outcome.entry is not None:
            try:
                self.run_log.add(outcome.entry)
            except OSError as error:
                outcome = Outcome(job.name, error=self._cannot_write(job, error))
        if outcome.error is not None:
            self.failed[job.name] = outcome.error
        return outcome

    def _try(self, step: Callable[[Job], Outcome | None], job: Job) -> Outcome | None:
        try:
            job.name.encode()
            return step(job)
        except UnicodeEncodeError:
            line = f"{job.name!a}: the file name is not valid UTF-8. Rename the file"
        except BlastdetError as error:
            line = " ".join(str(error).split())
            name = " ".join(job.name.split())
            line = line if name in line else f"{name}: {line}"
        except Exception as error:  # noqa: BLE001  # a surprise in one image must not cost the others
            line = " ".join(f"{job.name}: {type(error).__name__}: {error}".split()).rstrip(": ")
        return Outcome(job.name, error=line)

    def stem(self, job: Job) -> Path:
        """Path of a job's output files without suffix; keeps the image's suffix where two names differ only in it."""
        name = Path(job.name)
        return self.output.folder / (name if self._full_names else name.with_suffix(""))

    def _files(self, job: Job) -> list[Path]:
        stem, formats = self.stem(job), self.output.formats
        page = page_files(stem, self.output.folder) if "html" in formats else ()
        suffixes = {**SUFFIXES, "pdf": PDF}
        return [stem.with_name(stem.name + suffixes[kind]) for kind in formats if kind in suffixes] + [*page]

    def _all_files(self) -> list[Path]:
        """Everything that the run will write, except its log."""
        return [file for job in self.jobs for file in self._files(job)] + self._run_files()

    def _run_files(self) -> list[Path]:
        """Files of the whole run, except its log."""
        formats = self.output.formats
        return [self.output.folder / name for kind in formats for name in RUN_FILES.get(kind, ())]

    def _check_names(self) -> None:
        """Refuse to write one file twice, or over an image of the run."""
        files = [file for job in self.jobs for file in self._files(job)] + self._run_files()
        images = {os.path.realpath(job.path) for job in self.jobs}
        twice = [file for file, number in Counter(files).items() if number > 1]
        over = [file for file in files if os.path.realpath(file) in images]
        if twice or over:
            raise BlastdetError(
                f"{(twice or over)[0]}: two results, or a result and an image, have this name. Choose another --out"
            )

    def _skip(self, job: Job) -> Outcome | None:
        if self.output.existing != "resume" or not job.path.is_file():
            return None
        sheet = page_files(self.stem(job), self.output.folder)[1] if job.name in self._without_sheet else None
        if not self.run_log.has(job.name, sha256_of(job.path)):
            return None
        changed = self.run_log.changed(job.name)
        missing = (file.name for file in self._files(job) if file != sheet and not file.is_file())
        if fault := changed or next(missing, None):
            self.redone[job.name] = fault
            return None
        return Outcome(job.name, f"{in_a_line(job.name)}: already finished, skipped")

    def _first(self, job: Job) -> Outcome | None:
        """Process an image, unless its scale is in doubt and other images may settle it: then later."""
        return self._skip(job) or self._process(job, postpone=len(self.jobs) > 1)

    def _second(self, job: Job) -> Outcome | None:
        return self._process(job, postpone=False)

    def _process(self, job: Job, *, postpone: bool) -> Outcome | None:
        with open_smear(job.path) as image:
            source = self.model.normalize_stain(image)
            common = self._scales.of(job.path, source)
            if common is not None:
                result = analyze_in_run(self.model, source, self.options, common)
            else:
                second = not postpone and len(self.jobs) > 1
                scale = (self._consensus(source.size_wh) if second else None) or estimate_scale(
                    source, self.options.mpp, self.model.detector
                )
                if postpone and scale.is_weak:
                    return None
                result = self.model.analyze_source(source, scale, self.options)
            result = replace(result, name=job.name)
            cells = cell_record(result.detections) if WITH_CELLS & {*self.output.formats} else None
            try:
                files = write_result(result, self.stem(job), self.output.formats, image, self.output.hidden)
                shown = self._write_page_files(job, result, image, cells)
                if "pdf" in self.output.formats:
                    files.append(self._write_pdf(job, result, image))
            except OSError as error:
                raise BlastdetError(self._cannot_write(job, error)) from error
        coco = coco_entry(result) if "coco" in self.output.formats else {}
        outputs = {self._relative(file): sha256_of(file) for file in (*files, *shown)}
        written = [*outputs, *map(self._relative, self._run_files())]
        text = describe(result, files, with_differential=len(self.jobs) == 1)
        entry = _entry(result, coco) | ({} if cells is None else {"cells": cells})
        return Outcome(job.name, text, entry={**entry, "files": written, "outputs": outputs})

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.output.folder).as_posix()

    def _write_pdf(self, job: Job, result: Result, image: Source) -> Path:
        from blastdet.inference.outputs.pdf_report import totals_of, write_pdf

        classifier = None if self.model.classifier is None else self.model.classifier.card
        stem = self.stem(job)
        stem.parent.mkdir(parents=True, exist_ok=True)
        totals = totals_of(result, _entry(result, {}), classifier)
        return write_pdf(result, totals, image, stem.with_name(stem.name + PDF), self.output.hidden)

    def _write_page_files(self, job: Job, result: Result, image: Source, cells: Mapping[str, Any] | None) -> list[Path]:
        if "html" not in self.output.formats or cells is None:
            return []
        return write_page_files(result, page_files(self.stem(job), self.output.folder), image, cells)

    def _consensus(self, size_wh: tuple[int, int]) -> ScaleEstimate | None:
        """Median scale of the run's images of this size that many red cells settled: one camera, one objective."""
        measured = self.run_log.measured(size_wh, self._names)
        if not measured:
            return None
        x, y = np.median(np.array(measured), axis=0).tolist()
        return ScaleEstimate((x, y), "other_images", n_images=len(measured))

    def _cannot_write(self, job: Job, error: OSError) -> str:
        return f"{job.name}: results cannot be written to {self.output.folder} ({one_line(error)})"

    def finish(self) -> tuple[RunTotals, list[Path]]:
        """Write the files of the run; returns the images that are finished, taken together, and those files."""
        names = [job.name for job in self.jobs if job.name not in self.failed]
        entries = [
            {key: value for key, value in entry.items() if key not in _OF_COCO} for entry in self.run_log.entries(names)
        ]
        classifier = None if self.model.classifier is None else self.model.classifier.card
        totals = RunTotals(entries, self.model.classes, classifier, self.model.describe(), self.failed)
        if not entries:  # files of an earlier run stay
            return totals, []
        try:
            return totals, list(self._write_run(totals, names))
        except OSError as error:
            raise BlastdetError(f"{self.output.folder}: cannot be written to ({one_line(error)})") from error

    def _write_run(self, totals: RunTotals, names: list[str]) -> Iterator[Path]:
        folder, formats = self.output.folder, self.output.formats
        if "coco" in formats:
            yield write_coco(self.run_log.entries(names), self.model.classes, folder / COCO_FILE)
        if "csv" in formats:
            stems = (self.stem(job) for job in self.jobs if job.name not in self.failed)
            yield from write_tables(totals, (stem.with_name(stem.name + SUFFIXES["csv"]) for stem in stems), folder)
        if "xlsx" in formats:
            yield write_workbook(totals, folder)
        if "html" in formats:
            yield write_page(totals, {job.name: self.stem(job) for job in self.jobs}, folder, self.output.hidden)


def _entry(result: Result, coco: dict[str, Any]) -> dict[str, Any]:
    return {**entry_of(result), **coco}
