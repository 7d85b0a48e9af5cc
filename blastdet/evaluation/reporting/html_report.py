"""The report as one self-contained HTML page: no network, no script; light, dark and on paper."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blastdet import __version__
from blastdet.core.columns import html_table
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import DependencyError, counted
from blastdet.evaluation.allidb_tests import Verdicts
from blastdet.evaluation.comparison import Comparison
from blastdet.evaluation.confusion import Confusion, Figure
from blastdet.evaluation.counts import Agreement
from blastdet.evaluation.evaluate import FIGURES, Evaluation, describe_data
from blastdet.evaluation.reporting.error_crops import SIDE_PX, Crop, crops
from blastdet.evaluation.reporting.plots import plots
from blastdet.evaluation.reporting.tables import difference_rows, write_text
from blastdet.evaluation.reporting.text import HOW_MATCHED, all_notes, of_figure, of_row, with_interval
from blastdet.evaluation.reporting.verdict import verdicts
from blastdet.evaluation.subgroups import SIZES_UM, size_name

_HOW = f"95 % intervals over groups. {RESEARCH_USE}"

PAGE_FILES = ("report.html", "plots")
"""What `write_page` writes."""

Drawn = Sequence[tuple[str, str]]
"""Caption and SVG of each plot of an evaluation."""


def write_page(evaluations: Sequence[Evaluation], out: Path, comparisons: Sequence[Comparison] = ()) -> list[Path]:
    """Write ``report.html`` into the folder `out`, and its plots as SVG below ``plots``; returns both paths."""
    drawn = [plots(evaluation, i) for i, evaluation in enumerate(evaluations)]
    page = write_text(out / PAGE_FILES[0], render(evaluations, comparisons, drawn))
    for number, some in enumerate(drawn, 1):
        for caption, text in some:
            name = re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")
            write_text(out / PAGE_FILES[1] / f"{number}-{name}.svg", text)
    return [page, out / PAGE_FILES[1]]


def render(
    evaluations: Sequence[Evaluation],
    comparisons: Sequence[Comparison] = (),
    drawn: Sequence[Drawn] | None = None,
) -> str:
    """The page as HTML text.

    Raises `DependencyError` if jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise DependencyError("jinja2: not installed. Run: pip install 'blastdet[evaluate]'") from None

    def number(text: Any) -> Any:
        """The interval below the figure, smaller."""
        value, bracket, interval = str(text).partition(" [")
        return Markup("{}<br><small>[{}</small>").format(value, interval) if bracket else text

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("blastdet.evaluation.reporting", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=f"Evaluation: {', '.join(dict.fromkeys(e.predictions.name for e in evaluations))}",
        notice=RESEARCH_USE,
        version=__version__,
        pycocotools=f"pycocotools {version('pycocotools')}",
        evaluations=[
            _section(evaluation, plots(evaluation, i) if drawn is None else drawn[i])
            for i, evaluation in enumerate(evaluations)
        ],
        differences=[_difference(row) for comparison in comparisons for row in difference_rows(comparison)],
        how=HOW_MATCHED,
        number=number,
        side=SIDE_PX,
    )


def summary_table(evaluation: Evaluation) -> str:
    """The summary of an evaluation as an HTML table, for notebooks."""
    figures = ("AP50", "AP50:95", "precision", "recall", "F1")
    rows = [
        [str(row["class"]), str(row["n"])]
        + [with_interval(row[name], row[f"{name}_lower"], row[f"{name}_upper"]) for name in figures]
        for row in evaluation.summary
    ]
    title = f"{evaluation.title}, {counted(len(evaluation.dataset), 'image')}"
    return html_table(("class", "cells", *figures), rows, f"{title}. {_HOW}")


def comparison_table(comparison: Comparison) -> str:
    """A comparison as an HTML table, for notebooks."""
    made = [_difference(row) for row in difference_rows(comparison)]
    keys = ("class", "figure", "value_A", "value_B", "change", "verdict")
    title = f"A {comparison.names[0]}, B {comparison.names[1]} on {comparison.a.dataset.name}"
    rows = [[str(row[key]) for key in keys] for row in made if row["figure"] not in ("AP75", "AR")]
    return html_table(("class", "figure", "A", "B", "B − A", ""), rows, f"{title}. {_HOW}")


def _difference(row: dict[str, Any]) -> dict[str, Any]:
    change = with_interval(row["difference"], row["low"], row["high"])
    return {**row, "value_A": f"{row['value_A']:.3f}", "value_B": f"{row['value_B']:.3f}", "change": change}


def _section(evaluation: Evaluation, drawn: Drawn) -> dict[str, Any]:
    facts = _facts(evaluation)
    return {
        "title": evaluation.title,
        "rule": evaluation.confusions[0].rule,
        "verdicts": [line for c in evaluation.confusions if c.matching == "class-aware" for line in verdicts(c)],
        "classes": evaluation.ap.classes,
        "max_dets": evaluation.ap.max_dets,
        "rows": [_row(row) for row in evaluation.rows],
        "notes": all_notes(evaluation),
        "matrices": [_matrix(evaluation, result) for result in evaluation.confusions],
        "joint": [{"name": f.name, "text": of_figure(f), "n": f.n} for f in evaluation.joint],
        "tests": _tests(evaluation),
        "several": evaluation.cell_test.several if evaluation.cell_test else 0,
        "sizes": _sizes(evaluation),
        "slices": _slices(evaluation),
        "counts": [_count(count) for count in evaluation.counts],
        "plots": drawn,
        "crops": [_labelled(crop) for crop in crops(evaluation)],
        "facts": [fact for fact in facts if not fact["key"].startswith("card")],
        "card": [fact for fact in facts if fact["key"].startswith("card")],
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    figures = [of_row(row, figure) for figure in (FIGURES[0], FIGURES[2], FIGURES[1], FIGURES[3])]
    return {"model": row["model"], "data": row["data"], "name": row["class"], "n": row["n_truth"], "figures": figures}


def _matrix(evaluation: Evaluation, result: Confusion) -> dict[str, Any]:
    figures = evaluation.cells[result.matching]
    size = len(result.classes)
    rows = []
    for i, name in enumerate((*result.classes, "false")):
        total = max(int(result.matrix[i].sum()), 1)
        cells = [
            {
                "text": "" if i == j == size else int(result.matrix[i, j]),
                "kind": "right" if i == j else "wrong",
                "shade": round(0.6 * math.sqrt(int(result.matrix[i, j]) / total), 3),
            }
            for j in range(size + 1)
        ]
        rows.append({"name": name, "cells": cells})
    return {
        "title": result.matching.capitalize(),
        "columns": (*result.classes, "missed"),
        "rows": rows,
        "figure_names": [figure.name for figure in next(iter(figures.values()), [])],
        "figures": [{"name": name, "texts": [of_figure(f) for f in values]} for name, values in figures.items()],
    }


def _tests(evaluation: Evaluation) -> list[dict[str, Any]]:
    tests = [*evaluation.images, *([evaluation.cell_test.verdicts] if evaluation.cell_test else [])]
    return [_test(test) for test in tests]


def _test(verdicts: Verdicts) -> dict[str, Any]:
    sensitivity, specificity = verdicts.sensitivity, verdicts.specificity
    known = verdicts.tn is not None
    counts = (verdicts.tp, verdicts.fn, verdicts.tn, verdicts.fp if known else None, verdicts.error)
    return {
        "name": verdicts.name,
        "counts": ["–" if count is None else count for count in counts],
        "sensitivity": with_interval(verdicts.sensitivity_value, sensitivity.low, sensitivity.high),
        "specificity": with_interval(verdicts.specificity_value, specificity.low, specificity.high),
        "nowhere": verdicts.false_blasts if verdicts.name == "cell test" else "",
    }


def _sizes(evaluation: Evaluation) -> dict[str, Any] | None:
    if not evaluation.by_size:
        return None
    columns = [size_name(size) for size in evaluation.by_size]
    rows = []
    for name in evaluation.ap.classes:
        results = evaluation.by_size.values()
        cells = [f"{r.figures(name)['AP50']:.3f} (n {r.n_truth[name]})" if r.n_truth[name] else "–" for r in results]
        rows.append({"name": name, "cells": cells})
    return {"columns": columns, "rows": rows}


def _slices(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row for each subgroup, a cell for each class; sizes in ascending order."""
    sizes = [size_name(size) for size in SIZES_UM]
    parts = sorted(evaluation.slices, key=lambda part: sizes.index(part.slice) if part.slice in sizes else -1)
    cells: dict[str, dict[str, str]] = {}
    for part in parts:
        text = of_figure(Figure(part.name, part.sensitivity, part.interval, part.n))
        value, bracket, interval = text.partition(" [")
        cells.setdefault(part.slice, {})[part.name] = f"{value} (n {part.n}){bracket}{interval}"
    return [{"name": s, "cells": [row.get(c, "–") for c in evaluation.ap.classes]} for s, row in cells.items()]


def _count(count: Agreement) -> list[str]:
    intervals = count.intervals
    error, bias, concordance = (intervals[key] for key in ("mean_absolute_error", "bias", "concordance"))
    share = "%" in count.name
    return [
        count.name,
        str(count.n),
        "" if share else f"{count.true_total:.0f}",
        "" if share else f"{count.found_total:.0f}",
        with_interval(count.mean_absolute_error, error.low, error.high, 2),
        with_interval(count.bias, bias.low, bias.high, 2),
        "–" if math.isnan(count.limits[0]) else f"{count.limits[0]:.2f} to {count.limits[1]:.2f}",
        with_interval(count.concordance, concordance.low, concordance.high),
    ]


def _labelled(crop: Crop) -> dict[str, Any]:
    error = crop.error
    if error.kind == "missed":
        label = f"{error.truth_class} missed" + (f" (best score {error.score:.2f})" if error.score else "")
    elif error.kind == "false":
        label = f"false {error.found_class} {error.score:.2f}"
    else:
        label = f"{error.truth_class} classified as {error.found_class} {error.score:.2f}"
    return {
        "label": label,
        "file_name": crop.file_name,
        "image": crop.image,
        "truth": crop.truth,
        "found": crop.found,
    }


def _facts(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Data, model and card as rows of a table; empty entries are left out, long ones shortened."""
    named = {"n_smears": "images", "n_groups": "groups"}
    data = describe_data(evaluation.dataset)
    facts = [fact for key, v in data.items() for fact in _fact(f"data: {named.get(key, key)}", v)]
    points = evaluation.predictions.thresholds
    facts += _fact("operating score", points)
    return facts + [fact for key, value in evaluation.predictions.about.items() for fact in _fact(key, value)]


_LONGEST = 300  # characters of one line of the table
_MOST = 24  # lines, or rows of a table
_WORDS = 24  # characters of words that share a line


def _fact(key: str, value: Any) -> list[dict[str, Any]]:
    """An entry of a JSON document as rows: lines of text, or a small table for dictionaries with equal keys."""
    key = key.replace("_", " ")
    if _is_table(value):
        listed = isinstance(value, list | tuple)
        rows = value if listed else [{"": name, **row} for name, row in value.items()]
        head = [name for name in dict.fromkeys(name for row in rows for name in row) if any(_known(rows, name))]
        cells = [[_brief(_text(row.get(name))) for name in head] for row in rows[:_MOST]]
        return [{"key": key, "head": [name.replace("_", " ") for name in head], "rows": cells}]
    if isinstance(value, dict) and any(isinstance(item, dict) or _is_table(item) for item in value.values()):
        plain = {name: item for name, item in value.items() if not (isinstance(item, dict) or _is_table(item))}
        nested = [name for name in value if name not in plain]
        return _fact(key, plain) + [fact for name in nested for fact in _fact(f"{key}: {name}", value[name])]
    lines = _lines(value)
    return [{"key": key, "head": [], "text": "\n".join(lines)}] if lines else []


def _is_table(value: Any) -> bool:
    """Whether all items are dictionaries, and there are some."""
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return bool(items) and all(isinstance(item, dict) for item in items)


def _known(rows: Sequence[dict[str, Any]], name: str) -> list[bool]:
    return [bool(_text(row.get(name))) for row in rows]


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        lines = [f"{key.replace('_', ' ')}: {text}" for key, item in value.items() if (text := _text(item))]
    elif isinstance(value, list | tuple) and any(len(_text(item)) > _WORDS for item in value):
        lines = [_text(item) for item in value]
    else:
        lines = [text] if (text := _text(value)) else []
    return lines[:_MOST] + ([f"… and {len(lines) - _MOST} more"] if len(lines) > _MOST else [])


def _brief(text: str) -> str:
    """A cell of a small table: of a checksum, which ``metrics.json`` holds in full, the beginning."""
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{40,}", text) else text


def _text(value: Any) -> str:
    """One value in words; empty for an unknown one."""
    if value is None:
        return ""
    if isinstance(value, dict):
        text = ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(_text(item) for item in value)
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
