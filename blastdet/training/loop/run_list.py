"""Run folders side by side: what was trained, how far it got, how good it is. Imports no torch."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from blastdet.core.errors import BlastdetError, one_line
from blastdet.training.config import ClassifyConfig, read_any

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
    """All runs below a folder, best first; one that cannot be read is listed with the reason.

    Raises
    ------
    BlastdetError
        If there is no run.
    """
    found = [summarise(path.parent, folder) for path in sorted(folder.rglob("config.yaml"))]
    if not found:
        raise BlastdetError(f"{folder}: no run found (a folder with a config.yaml, as `blastdet train` leaves it)")
    return sorted(found, key=lambda run: (-run.ap if run.ap == run.ap else 1.0, run.name))


def summarise(run: Path, folder: Path) -> RunSummary:
    """What config.yaml, metrics.csv and the weights of a run folder tell."""
    name, nan = run.relative_to(folder).as_posix(), float("nan")
    try:
        config = read_any(run / "config.yaml")
        rows = _rows(run / "metrics.csv")
        judged = [row for row in rows if "fitness" in row]
        best = max(judged, key=lambda row: row["fitness"], default={})
        seconds = rows[-1]["seconds"] if rows else 0.0
        figures = best.get("AP", nan), best.get("AP50", nan)  # a classifier has none
    except (BlastdetError, KeyError, ValueError, TypeError, OSError, csv.Error) as error:
        return RunSummary(name, "?", "?", "?", nan, nan, 0.0, f"unreadable: {one_line(error)}")
    done = len(rows)
    shallow = isinstance(config, ClassifyConfig) and bool(config.features)  # fitted at once, without epochs
    whole = shallow or done >= config.epochs or config.should_stop_early(done, int(best.get("epoch", 0)))
    finished = whole and (run / "weights" / "card.json").is_file()  # an unfinished run may have been exported
    state = "finished" if finished else "started" if not done else "unfinished"
    data = "+".join(dict.fromkeys(Path(item.path).name for item in config.data))
    epochs = "–" if shallow else f"{done}/{config.epochs}"
    return RunSummary(name, config.model, data, epochs, *figures, seconds, state)


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
