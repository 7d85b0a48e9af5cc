"""Table of run folders: model, data, progress, figures. Imports no torch."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from blastdet.core.errors import BlastdetError, one_line
from blastdet.training.config import ClassifyConfig, TrainConfig
from blastdet.training.config_file import read_any

_COLUMNS = ("name", "model", "data", "epochs", "AP", "AP50", "time", "state")


@dataclass(frozen=True)
class RunSummary:
    """One run folder; figures are those of its best epoch on validation, NaN before the first."""

    name: str
    model: str
    data: str
    epochs: str
    ap: float
    ap50: float
    seconds: float
    state: str

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        figures = ("–" if value != value else f"{value:.3f}" for value in (self.ap, self.ap50))
        minutes = f"{self.seconds / 60:.0f} min" if self.seconds < 6000 else f"{self.seconds / 3600:.1f} h"
        minutes = "–" if self.seconds != self.seconds else minutes
        return (self.name, self.model, self.data, self.epochs, *figures, minutes, self.state)


def find_runs(folder: Path) -> list[RunSummary]:
    """All runs below a folder, best first; a run that cannot be read is listed with the reason.

    Raises `BlastdetError` if there is no run.
    """
    found = [summarise(path.parent, folder) for path in sorted(folder.rglob("config.yaml"))]
    if not found:
        raise BlastdetError(
            f"{folder}: no run found; expected folders with a config.yaml, as `blastdet train` writes them"
        )
    return sorted(found, key=lambda run: (-run.ap if run.ap == run.ap else 1.0, run.name))


def summarise(run: Path, folder: Path) -> RunSummary:
    """A run as described by its config.yaml, metrics.csv and weights."""
    name, nan = run.relative_to(folder).as_posix(), float("nan")
    try:
        config = read_any(run / "config.yaml")
        rows = _rows(run / "metrics.csv")
        validated = [row for row in rows if "fitness" in row]
        best = max(validated, key=lambda row: row["fitness"], default={})
        seconds = rows[-1]["seconds"] if rows else 0.0
        figures = best.get("AP", nan), best.get("AP50", nan)  # a classifier has none
        has_weights = _has_weights(run, config)
    except (BlastdetError, KeyError, ValueError, TypeError, OSError, csv.Error) as error:
        return RunSummary(name, "?", "?", "?", nan, nan, 0.0, f"unreadable: {one_line(error)}")
    done = len(rows)
    no_epochs = isinstance(config, ClassifyConfig) and bool(config.features)
    complete = no_epochs or done >= config.epochs or config.should_stop_early(done, int(best.get("epoch", 0)))
    finished = complete and has_weights  # an unfinished run may have been exported
    state = "finished" if finished else "started" if not done else "unfinished"
    data = "+".join(dict.fromkeys(Path(item.path).name for item in config.data))
    epochs = "–" if no_epochs else f"{done}/{config.epochs}"
    return RunSummary(name, config.model, data, epochs, *figures, seconds, state)


def _has_weights(run: Path, config: TrainConfig | ClassifyConfig) -> bool:
    path = run / "weights" / "card.json"
    if not path.is_file():
        return False
    folds = config.folds if isinstance(config, ClassifyConfig) else None
    return not folds or json.loads(path.read_text(encoding="utf-8"))["calibration"] is not None


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def as_table(runs: list[RunSummary]) -> str:
    """Aligned columns, the first line naming them."""
    rows = [_COLUMNS, *(run.cells() for run in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
