"""``blastdet runs``."""

from __future__ import annotations

from pathlib import Path

import click

from blastdet.cli._printing import echo


@click.command("runs", short_help="list trainings side by side")
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
def command(folder: Path) -> None:
    """List the trainings below FOLDER (default: runs), best first.

    \b
    blastdet runs
    blastdet runs runs/laboratories

    Epochs: finished of configured. AP and AP50: best epoch, validation split. State: started (no epoch finished yet),
    unfinished (running, or killed: continue with --resume), finished or unreadable.

    Exit codes: 0 listed, 2 no run found.
    """
    from blastdet.training.loop.run_list import as_table, find_runs

    echo(as_table(find_runs(folder)))
