"""A linear last layer for the blast probability, fitted to the cells of one laboratory and stored beside a model."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from blastdet.core.errors import WeightsError, one_line

_LARGEST = 2**20  # bytes of a file, and of an array: a hundred thousand features
_ARRAYS = {"slope": 0, "offset": 0, "centre": 1, "weights": 1}
"""Name of each array in the file -> number of its dimensions."""

# What a damaged ZIP file raises. RuntimeError: it says that it is encrypted.
_FAULTS = (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A new logit of the blast probability: ``slope * logit + offset + (features - centre) @ weights``.

    Parameters
    ----------
    slope, offset : float
        Applied to the logit of the model.
    centre, weights : float64 (f,)
        Of the features; empty where the features are not used.

    Examples
    --------
    >>> head = LinearHead(2.0, 1.0, np.array([0.5]), np.array([10.0]))
    >>> head(np.array([3.0]), np.array([[0.6]])).round(6).tolist()
    [8.0]
    """

    slope: float
    offset: float
    centre: Floats
    weights: Floats

    @classmethod
    def scaling(cls, slope: float, offset: float) -> LinearHead:
        """A head that does not use features."""
        return cls(slope, offset, np.empty(0), np.empty(0))

    def __call__(self, logit: Floats, features: NDArray[Any]) -> Floats:
        """New logits (n,) from those of the model (n,) and features (n, f)."""
        scaled = self.slope * logit + self.offset
        if not len(self.weights):
            return np.asarray(scaled)
        return np.asarray(scaled + (features.astype(np.float64) - self.centre) @ self.weights)

    def after(self, first: LinearHead) -> LinearHead:
        """The head that does what `first`, and then this one, would do.

        Examples
        --------
        >>> both = LinearHead.scaling(2.0, 1.0).after(LinearHead.scaling(3.0, 0.5))
        >>> both.slope, both.offset
        (6.0, 2.0)
        """
        slope, offset = self.slope * first.slope, self.slope * first.offset + self.offset
        if not len(first.weights):
            return LinearHead(slope, offset, self.centre, self.weights)
        if not len(self.weights):
            return LinearHead(slope, offset, first.centre, self.slope * first.weights)
        moved = float((first.centre - self.centre) @ self.weights)
        return LinearHead(slope, offset + moved, first.centre, self.slope * first.weights + self.weights)

    def write(self, path: Path) -> None:
        """Write the arrays as NPZ; equal heads make equal files."""
        with path.open("wb") as stream:
            np.savez(stream, slope=self.slope, offset=self.offset, centre=self.centre, weights=self.weights)


def read_head(path: Path) -> LinearHead:
    """Read the file of a head. Nothing in it is executed, and it cannot claim more memory than it has bytes.

    Raises
    ------
    WeightsError
        If the file is missing, too large, or anything but the four arrays of finite numbers.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"expected at most {_LARGEST} bytes")
        with zipfile.ZipFile(path) as archive:
            found = {name: _array(archive, name, n) for name, n in _ARRAYS.items()}
            if len(archive.infolist()) != len(_ARRAYS):
                raise ValueError("expected no other arrays")
        if found["centre"].shape != found["weights"].shape:
            raise ValueError("expected centre and weights of one length")
    except _FAULTS as error:
        raise WeightsError(
            f"{path}: expected the arrays {', '.join(_ARRAYS)} ({one_line(error)}). Copy the weights folder again."
        ) from None
    return LinearHead(float(found["slope"]), float(found["offset"]), found["centre"], found["weights"])


def _array(archive: zipfile.ZipFile, name: str, dimensions: int) -> Floats:
    """One array. Its header is checked before memory is reserved for what it promises."""
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > _LARGEST:
        raise ValueError(f"{name}: expected at most {_LARGEST} bytes")
    stream = io.BytesIO(archive.read(info))
    if npy.read_magic(stream) != (1, 0):
        raise ValueError(f"{name}: expected NPY version 1.0")
    shape, _, kind = npy.read_array_header_1_0(stream)
    content = stream.read()
    if kind != np.float64 or len(shape) != dimensions or 8 * int(np.prod(shape)) != len(content):
        raise ValueError(f"{name}: expected float64 of {dimensions} dimensions, got {kind} of shape {shape}")
    values = np.frombuffer(content, np.float64).reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: expected finite numbers")
    return values
