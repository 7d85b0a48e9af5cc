"""A run of ``blastdet classify``: ``cells.csv``, ``gallery.html``, and the log that ``--resume`` reads."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from blastdet.core.atomic_io import locked, write_text
from blastdet.core.columns import PROBABILITY
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import BlastdetError, ConfigError, DependencyError, counted, in_a_line, listed, one_line
from blastdet.core.model_card import sha256_of
from blastdet.core.types import Scale
from blastdet.datasets.copies import copies_note
from blastdet.datasets.formats.csv_table import FILE_NAME, line
from blastdet.inference.differential import spoken_type
from blastdet.inference.model import Model
from blastdet.inference.run_log import Existing, RunLog
from blastdet.inference.single_cells.cell_images import find_cell_images
from blastdet.inference.single_cells.cell_scale import CellOptions
from blastdet.inference.single_cells.classification import (
    ClassifiedCell,
    Progress,
    classify_looked_at,
    first_looks,
)
from blastdet.inference.single_cells.gallery import GALLERY, gallery, ordered_types, scales, stain_warning
from blastdet.inference.writers import software

# The columns with the probability of each class are between the two.
HEAD: tuple[str, ...] = ("image", "cell_type", "blast_probability", "unsure", "reason")
TAIL: tuple[str, ...] = ("x1", "y1", "x2", "y2", "mpp_x", "mpp_y", "mpp_source", "note")

_SHOWN_FAILURES = 3  # images listed for each reason
_SHOWN_REASONS = 20


class CellRun:
    """Classify the images that paths stand for, and write the files of the run.

    Parameters
    ----------
    paths : sequence of Path
        See `find_cell_images`.
    model : Model
        With a second stage.
    options : CellOptions
    folder : Path
        Made if it does not exist.
    existing : {"refuse", "resume", "overwrite"}
        What to do where the folder holds a run already; see `blastdet.inference.batch.Output`.

    Raises
    ------
    BlastdetError
        If there is no image, or the folder cannot be used.
    """

    def __init__(
        self, paths: Sequence[Path], model: Model, options: CellOptions, folder: Path, existing: Existing = "refuse"
    ) -> None:
        assert model.classifier is not None
        self.model, self.options, self.folder, self.existing = model, options, folder, existing
        self.images, self._paths, self.left_out = find_cell_images(paths, folder)
        self.failed: dict[str, str] = {}
        """Name of an image: why it failed."""
        self._redone: list[str] = []
        settings = {
            "command": "classify",
            "models": model.describe(),
            "options": asdict(options),
            "stated_mpp": sorted({image.mpp for image in self.images if image.mpp is not None}),
            "versions": dict(software()),
        }
        self._lock = locked(folder)
        try:
            self.run_log = RunLog(folder, settings, existing, self.files, self._paths.values())
        except BaseException:
            self._lock.close()
            raise

    @property
    def files(self) -> tuple[Path, ...]:
        """What the run writes."""
        return self.folder / FILE_NAME, self.folder / GALLERY

    def close(self) -> None:
        """Release the output folder for other runs."""
        self._lock.close()

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        """Name of each image that is classified now, and why it failed if it did."""
        return self.classify(lambda what, done, total: None)

    def classify(self, progress: Progress) -> Iterator[tuple[str, str | None]]:
        """As iteration does, with progress."""
        looks = first_looks(self.model, self.images, self.options, progress)
        for image, answer in classify_looked_at(self.model, self.images, looks, self.options, progress, self._is_done):
            if isinstance(answer, BlastdetError):
                self.failed[image.name] = " ".join(str(answer).split())
            else:
                self._record(answer)
            yield image.name, self.failed.get(image.name)

    def _record(self, cell: ClassifiedCell) -> None:
        try:
            self.run_log.add(self._entry(cell))
        except OSError as error:
            raise BlastdetError(f"{self.run_log.path}: cannot be written ({one_line(error)})") from error

    def _is_done(self, name: str, mpp: Scale | None) -> bool:
        """Whether an earlier run classified this image at this scale, which images added since may have changed."""
        path = self._paths[name]
        if self.existing != "resume" or not path.is_file() or not self.run_log.has(name, sha256_of(path), mpp):
            return False
        if self.run_log.changed(name) is not None:
            self._redone.append(name)
            return False
        return True

    def _redone_note(self) -> list[str]:
        if not self._redone:
            return []
        return [
            f"classified again, because {self.run_log.path.name} is not as it was written: "
            f"{listed(self._redone, _SHOWN_FAILURES)}"
        ]

    def _entry(self, cell: ClassifiedCell) -> dict[str, Any]:
        """A line of the run log; the crop is in it, so that a continued run can show it."""
        return {
            "name": cell.name,
            "image_sha256": sha256_of(self._paths[cell.name]),
            "counts": {},
            "size_wh": [cell.image.shape[1], cell.image.shape[0]],
            "mpp": list(cell.mpp),
            "mpp_measured": cell.scale.is_measured,
            "mpp_source": cell.scale.describe(),
            "warnings": [],
            "area_mm2": 0,
            "seconds": 0,
            "files": [path.name for path in self.files],
            "cell": row_of(cell),
            "jpeg": _jpeg(cell),
        }

    def finish(self, say: Callable[[str], None], warn: Callable[[str], None]) -> int:
        """Write the files, print the summary and the failures; returns the number of failures."""
        names = [image.name for image in self.images if image.name not in self.failed]
        entries = [(entry["cell"], entry["name"], entry["image_sha256"]) for entry in self._entries(names)]
        rows, hashes = [entry[0] for entry in entries], [entry[1:] for entry in entries]
        if rows:
            self._write(rows, say)
        for text in summary(rows, len(self.failed), (*copies_note(hashes), *self._redone_note())):
            say(text)
        for text in failures(self.failed):
            warn(text)
        return len(self.failed)

    def _entries(self, names: list[str]) -> Iterator[dict[str, Any]]:
        for entry in self.run_log.entries(names):
            cell, name = entry.get("cell"), entry["name"]
            if not isinstance(cell, dict) or cell.get("image") != name or not isinstance(entry.get("jpeg"), str):
                raise ConfigError(f"{self.run_log.path}: {in_a_line(name)}: not an entry of classify. Use --overwrite")
            yield entry

    def _jpegs(self, names: list[str]) -> dict[str, str]:
        return {entry["name"]: entry["jpeg"] for entry in self._entries(names)}

    def _write(self, rows: Sequence[dict[str, Any]], say: Callable[[str], None]) -> None:
        try:
            write_text(self.files[0], table(rows))
            say(f"wrote {self.files[0]}")
            card = self.model.classifier.card if self.model.classifier is not None else self.model.card
            write_text(self.files[1], gallery(rows, self._jpegs, card, failures(self.failed)))
            say(f"wrote {self.files[1]}")
        except DependencyError as error:
            say(f"note: no {GALLERY}: {error}")
        except OSError as error:
            raise BlastdetError(f"{self.folder}: results cannot be written ({one_line(error)})") from error


def row_of(cell: ClassifiedCell) -> dict[str, Any]:
    """A row of ``cells.csv``: column -> value."""
    x1, y1, x2, y2 = (round(side, 2) for side in cell.box_xyxy)
    probability = {f"{PROBABILITY}{name}": round(p, 4) for name, p in cell.probability.items()}
    return {
        "image": cell.name,
        "cell_type": cell.cell_type,
        "blast_probability": round(cell.blast_probability, 4),
        "unsure": int(cell.unsure),
        "reason": cell.reason,
        **probability,
        **dict(zip(TAIL[:4], (x1, y1, x2, y2), strict=True)),
        "mpp_x": float(f"{cell.mpp[0]:.6g}"),
        "mpp_y": float(f"{cell.mpp[1]:.6g}"),
        "mpp_source": cell.scale.describe(),
        "note": cell.note,
    }


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of ``cells.csv``."""
    columns = list(rows[0])
    yield line(columns)
    for row in rows:
        yield line([row[name] for name in columns])


def summary(rows: Sequence[dict[str, Any]], n_failed: int, notes: Sequence[str] = ()) -> list[str]:
    """What is printed of a run: cells of each type, how many of them are unsure, and notes."""
    if not rows:
        return []
    total, unsure = Counter(row["cell_type"] for row in rows), Counter(r["cell_type"] for r in rows if r["unsure"])
    lines = [f"{'type':<22}{'cells':>7}{'%':>8}{'unsure':>9}"]
    for name in ordered_types(rows):
        share = 100 * total[name] / len(rows)
        lines.append(f"{spoken_type(name):<22}{total[name]:>7}{share:>8.1f}{unsure[name]:>9}")
    reasons = Counter(row["reason"] for row in rows if row["unsure"])
    why = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items()))
    lines.append(f"{'all':<22}{len(rows):>7}{100:>8.1f}{sum(unsure.values()):>9}" + (f"   ({why})" if why else ""))
    if n_failed:
        lines.append(f"failed: {n_failed} of {counted(len(rows) + n_failed, 'image')}")
    lines.append(f"scale: {scales(rows)}")
    if noted := sum(bool(row["note"]) for row in rows):
        lines.append(f"{counted(noted, 'cell')} with a note in {FILE_NAME} on how the cell was found")
    lines += [f"note: {text}" for text in (stain_warning(rows), *notes) if text]
    lines.append(f"Images of single cells are no sample of a smear: their shares are no differential. {RESEARCH_USE}")
    return lines


def failures(failed: dict[str, str]) -> list[str]:
    """Failures by reason, a few images of each: a folder of a thousand images may fail for one reason."""
    by_reason: dict[str, list[str]] = {}
    for name, text in failed.items():
        by_reason.setdefault(_without(text, name), []).append(name)
    lines = []
    for reason, names in list(by_reason.items())[:_SHOWN_REASONS]:
        if len(names) <= _SHOWN_FAILURES:
            lines += [f"failed: {failed[name]}" for name in names]
            continue
        lines.append(f"failed: {len(names)} images ({listed(names, _SHOWN_FAILURES)}): {reason}")
    rest = [name for names in list(by_reason.values())[_SHOWN_REASONS:] for name in names]
    more = [f"failed: {counted(len(rest), 'image')} for other reasons, first: {rest[0]!r:.120}"] if rest else []
    return lines + more


def _without(text: str, name: str) -> str:
    """A message without the image at its beginning."""
    head, found, rest = text.partition(f"{name}: ")
    return rest if found and " " not in head else text


def _jpeg(cell: ClassifiedCell) -> str:
    file = io.BytesIO()
    Image.fromarray(cell.image).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode("ascii")
