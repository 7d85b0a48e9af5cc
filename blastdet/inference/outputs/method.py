"""How the figures of a run came about, and what they do not say: for the page and the PDF report."""

from __future__ import annotations

from collections import Counter

from blastdet.core.errors import counted
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.outputs.run_totals import RunTotals


def method_lines(totals: RunTotals, software: str = "") -> list[str]:
    """Sentences on models, scale, intervals and limits; the same for equal runs."""
    model, second = totals.model, totals.model.get("second_stage")
    lines = [f"Cells are found by the detector {model['name']} at {model['mpp']:.3g} µm per pixel{software}."]
    if second is not None:
        lines.append(
            f"Each nucleated cell is typed by the classifier {second['name']}. A cell is uncertain where two types are "
            "about equally likely, or where a cell is unlike the training data."
        )
    lines.append(f"Scale: {_scales(totals)}. Red cells are taken to be 7.5 µm wide where it is measured.")
    if second is not None:
        lines.append(
            "Intervals of the differential are exact 95 % intervals (Clopper and Pearson) for the number of cells "
            "counted. They do not include errors of the classifier."
        )
        lines += interval_of_blasts(totals.blast_fraction)
    lines.append(
        "Limits: images of few fields are no random sample of a smear; smudged, crowded and cut-off cells are missed "
        "or mistaken; stains, cameras and laboratories differ from those of the training. Look at the cells."
    )
    lines.append("This is a count of cells, not a diagnosis.")
    return lines


def interval_of_blasts(found: BlastFraction | None) -> list[str]:
    """Sentences on what the interval of the blast fraction covers."""
    if found is None or not found.n or not found.is_known_stain:
        return []
    lines = [f"People reviewed {found.reviewed} of {counted(found.n, 'white cell')}."] if found.reviewed else []
    if found.corrected_interval is not None:
        where = "laboratories left out of its training" if found.over_laboratories else "its validation stains"
        whose = " for the other cells" if found.reviewed else ""
        rates = f"the error rates of the classifier{whose}, measured on {where}"
        lines.append(f"The interval of the blast fraction also covers {rates}.")
    return lines


def _scales(totals: RunTotals) -> str:
    found = Counter(entry["mpp_source"].partition(" (n=")[0] for entry in totals.entries)
    return ", ".join(f"{source} ({counted(n, 'image')})" for source, n in found.most_common(3))
