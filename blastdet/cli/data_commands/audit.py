"""``blastdet audit``: find the faults of a dataset by rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blastdet.cli._options import reading_options
from blastdet.cli._printing import echo

if TYPE_CHECKING:
    from blastdet.audit.folder_audit import AuditReport

_LISTED = 12  # findings of one rule in the table; the JSON has all


@click.command()
@click.argument("data", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--from", "format_", default="auto", show_default=True, help="Format of the dataset.")
@reading_options
@click.option("--json", "json_", type=click.Path(path_type=Path, dir_okay=False), help="Write the report to this file.")
@click.option("--strict", is_flag=True, help="Exit with code 1 if there is an error or a warning.")
@click.option("--no-overlaps", is_flag=True, help="Do not look for overlapping fields (the slow part).")
def command(data: Path, format_: str, json_: Path | None, strict: bool, no_overlaps: bool, **reading: Any) -> None:
    """Find faults in an annotated dataset. Nothing is changed.

    Reports boxes without area, with swapped corners, outside the image, on the same cell, or of an implausible size for
    their class; sizes, names and folders that contradict the image; images without a class that nearly all others show;
    copies, mirrored images and overlapping fields, and which of them leak across a split. Prints class balance and cell
    sizes in px and µm.

    A terminal shows tables. A pipe gets one line for each finding, tab-separated: severity, rule, file, box, message.

    All pairs of images are compared for overlapping fields: 364 images take about 20 seconds of processor time, 2,800
    images about 20 minutes.

    \b
    Examples:
      blastdet audit BCCD
      blastdet audit my-set --from yolo --json audit.json --strict

    Exit codes: 0 done, 1 errors or warnings with --strict, 2 bad input. Research use only.
    """
    from blastdet.audit.folder_audit import audit_folder
    from blastdet.cli._progress import step_reporter
    from blastdet.datasets.annotations.files import check_replaced

    if json_ is not None:
        check_replaced(json_, '"findings"', "report of audit")
    with step_reporter() as step:
        report = audit_folder(data, format_, overlaps=not no_overlaps, progress=step, reading=reading)
    if json_ is not None:
        import json

        from blastdet.core.atomic_io import write_text

        write_text(json_, json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
    if sys.stdout.isatty():
        _print_tables(report)
    else:
        for line in plain_lines(report):
            echo(line)
    if strict and report.has_faults:
        raise click.exceptions.Exit(1)


def plain_lines(report: AuditReport) -> list[str]:
    """The report as lines: first the findings, tab-separated, then classes, counts and pairs."""
    from blastdet.core.errors import in_a_line

    lines = []
    for f in report.findings:
        box = "" if f.box is None else "({:g}, {:g}, {:g}, {:g})".format(*f.box)
        other = f" [{f.other}]" if f.other else ""
        file, message = in_a_line(str(f.file), 400), in_a_line(f"{f.message}{other}", 1000)
        lines.append(f"{f.severity}\t{f.rule}\t{file}\t{box}\t{message}")
    lines += ["\t".join(row) for row in _class_rows(report)]
    lines += [f"{rule}: {_in_words(row)}" for rule, row in report.counts().items()]
    return [*lines, *_summary(report)]


def _in_words(row: dict[str, int]) -> str:
    plural = {"error": "errors", "warning": "warnings"}
    return ", ".join(f"{n} {plural.get(name, name) if n > 1 else name}" for name, n in row.items() if n)


def _summary(report: AuditReport) -> list[str]:
    from blastdet.core.errors import in_a_line

    s = report.statistics
    splits = ", ".join(f"{name} {number}" for name, number in s["splits"].items())
    lines = [f"{s['name']}: {s['pictures']} images, {s['annotated']} annotated; splits: {splits}"]
    if s["labels"]:
        lines.append("images per label: " + ", ".join(f"{name} {number}" for name, number in s["labels"].items()))
    shared = s["sharing"]
    skipped = "" if s["overlaps_looked_for"] else " (without overlapping fields)"
    lines.append(
        f"shared content{skipped}: pairs {shared['pairs']}, groups {shared['groups']}, images {shared['pictures']}"
    )
    totals = {name: sum(f.severity == name for f in report.findings) for name in ("error", "warning", "info")}
    lines += [f"note: {in_a_line(line, 1000)}" for line in s["notes_of_reader"][:12]]
    return [*lines, "findings: " + (_in_words(totals) or "none")]


def _class_rows(report: AuditReport) -> list[list[str]]:
    head = ["class", "boxes", "images", "per split", "side px (5-50-95 %)", "side µm (5-50-95 %)", "µm from"]
    rows = []
    for name, c in report.statistics["classes"].items():
        splits = " ".join(f"{split} {number}" for split, number in c["boxes_per_split"].items())
        sizes = ["-".join(f"{v:.1f}" for v in c[key].values()) if c[key] else "" for key in ("side_px", "side_um")]
        rows.append([name, str(c["boxes"]), str(c["pictures"]), splits, *sizes, c["um_from"] or ""])
    return [head, *rows] if rows else []


def _print_tables(report: AuditReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    colour = {"error": "red", "warning": "yellow", "info": "dim"}
    for rule, counts in report.counts().items():
        table = Table(title=f"{rule}: {_in_words(counts)}", title_justify="left", show_header=False, pad_edge=False)
        found = [f for f in report.findings if f.rule == rule]
        for f in found[:_LISTED]:
            box = "" if f.box is None else " ".join(f"{value:g}" for value in f.box)
            files = f.file if f.other is None else f"{f.file}\n{f.other}"
            table.add_row(f"[{colour[f.severity]}]{f.severity}[/]", _plain(files), box, _plain(f.message))
        if len(found) > _LISTED:
            table.add_row("", f"and {len(found) - _LISTED} more (--json lists all)")
        console.print(table)
    rows = _class_rows(report)
    if rows:
        table = Table(*rows[0], title="classes", title_justify="left")
        for row in rows[1:]:
            table.add_row(*map(_plain, row))
        console.print(table)
    for line in _summary(report):
        console.print(_plain(line))


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
