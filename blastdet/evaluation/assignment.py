"""Optimal one-to-one pairs: as many as possible, then as good as possible."""

from __future__ import annotations

import numpy as np

from blastdet.core.errors import DependencyError
from blastdet.evaluation.matching import Bools, Floats, Ints


def best_pairs(allowed: Bools, gain: Floats) -> tuple[Ints, Ints]:
    """Pair rows with columns one to one.

    Of all ways to make as many allowed pairs as there can be, the one with the greatest sum of gains.

    Parameters
    ----------
    allowed : bool (n, m)
    gain : float64 (n, m)
        In [0, 1].

    Returns
    -------
    rows, columns : int64 (k,)
        Rows ascending.

    Raises
    ------
    DependencyError
        If scipy is not installed.

    Source: the Hungarian method, as ``scipy.optimize.linear_sum_assignment``.
    """
    near_rows, near_columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    if not len(near_rows):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise DependencyError("scipy is not installed: in the checkout, pip install -e '.[evaluate]'") from None
    part = np.ix_(near_rows, near_columns)
    one_pair = min(allowed[part].shape) + 1.0  # worth more than all gains together
    rows, columns = linear_sum_assignment(np.where(allowed[part], one_pair + gain[part], 0.0), maximize=True)
    rows, columns = near_rows[rows], near_columns[columns]
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]
