"""A result in each format that a client may ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blastdet.inference.result import Result
from blastdet.inference.writers import csv_lines, json_lines


@dataclass(frozen=True)
class Rendering:
    """How a result is written.

    Parameters
    ----------
    media_type : str
    text : callable
        Of the result.
    """

    media_type: str
    text: Callable[[Result], str]


def _dumped(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


RENDERINGS: dict[str, Rendering] = {
    "result.json": Rendering("application/json", lambda result: "".join(json_lines(result))),
    "result.csv": Rendering("text/csv; charset=utf-8", lambda result: "".join(csv_lines(result))),
    "result.coco.json": Rendering("application/json", lambda result: _dumped(result.to_coco())),
    "result.geojson": Rendering("application/geo+json", lambda result: _dumped(result.to_geojson())),
}
"""Name of a file -> how it is made."""
