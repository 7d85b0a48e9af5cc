"""Parsing and validation of scales in micrometres per pixel (mpp)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from blastdet.core.errors import ScaleError, shown
from blastdet.core.types import Scale

MPP_RANGE = (0.001, 100.0)
"""Plausible range of µm/px: from an electron microscope (0.001) to a flatbed scanner (100)."""

_TOO_LARGE = 1e30  # a float32 can hold it; NaN and infinity are not below it

_FORMS = "a number, two numbers X,Y, or 'auto'"


def check_mpp(value: Any, where: object = "mpp") -> Scale:
    """Check a scale, and return it along x and y.

    Raises `ScaleError` if `value` is anything else, or lies outside `MPP_RANGE`.

    Parameters
    ----------
    value : float, (float, float) or array of 1 or 2 numbers
        Micrometres per pixel. One number means square pixels.
    where : str or path
        Prefix of the error message, such as a file or an option.

    Examples
    --------
    >>> check_mpp(0.1)
    (0.1, 0.1)
    >>> check_mpp([0.1, 0.12])
    (0.1, 0.12)
    """
    array = np.asarray(value, dtype=object)
    numbers = array.ravel().tolist()
    if array.ndim > 1 or len(numbers) not in (1, 2) or not all(_is_number(number) for number in numbers):
        raise ScaleError(f"{where}: expected {_FORMS} as µm/px, got {' '.join(repr(value).split()):.60}")
    x, y = (float(numbers[0]), float(numbers[-1]))
    low, high = MPP_RANGE
    if not (low <= x < high and low <= y < high):
        got = f"{x:g}" if x == y else f"{x:g}, {y:g}"
        raise ScaleError(f"{where}: expected µm/px between {low:g} and {high:g}, got {got}")
    return x, y


def parse_mpp(value: Any, where: object = "mpp") -> Scale | Literal["auto"] | None:
    """Parse a scale as given by the user.

    Raises `ScaleError` if `value` is anything else; see `check_mpp`.

    Parameters
    ----------
    value : float, (float, float), str or None
        ``0.1``, ``(0.1, 0.12)``, ``"0.1"``, ``"0.1,0.12"``, ``"auto"`` or ``None``; in µm/px.
    where : str or path
        Prefix of the error message, such as a file or an option.

    Examples
    --------
    >>> parse_mpp("0.1,0.12")
    (0.1, 0.12)
    >>> parse_mpp("auto")
    'auto'
    """
    if value is None:
        return None
    if not isinstance(value, str):
        return check_mpp(value, where)
    if value == "auto":
        return "auto"
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        raise ScaleError(f"{where}: expected {_FORMS} as µm/px, got {shown(value)}") from None
    return check_mpp(numbers, where)


def _is_number(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return bool(-_TOO_LARGE < value < _TOO_LARGE)
