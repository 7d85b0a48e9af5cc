"""Images of which there are copies, byte for byte: their cells are counted once for each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from blastdet.core.errors import counted, in_a_line
from blastdet.core.model_card import sha256_of
from blastdet.core.types import Sample

_SHOWN, _SHOWN_NAMES = 3, 4  # images with copies, and names of each


def copies_note(images: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """A note on images that are equal byte for byte; none if there are none.

    A field of a smear is counted once. That it was counted more often is said, because only the user knows which of
    the files is too many, and whether another image was meant.

    Parameters
    ----------
    images : iterable of (str, str)
        Name and SHA-256 of each image.

    Examples
    --------
    >>> copies_note([("a.png", "1"), ("b.png", "2"), ("c.png", "1")])[0].partition(":")[0]
    '1 image is a copy of another one (a.png = c.png)'
    >>> copies_note([("a.png", "1"), ("b.png", "2")])
    ()
    """
    together: dict[str, list[str]] = {}
    for name, sha256 in images:
        together.setdefault(sha256, []).append(name)
    equal = [names for names in together.values() if len(names) > 1]
    if not equal:
        return ()
    n = sum(len(names) - 1 for names in equal)
    what = "1 image is a copy of another one" if n == 1 else f"{n} images are copies of others"
    shown = "; ".join(_named(names) for names in equal[:_SHOWN])
    more = f" and {counted(len(equal) - _SHOWN, 'more image')} with copies" if len(equal) > _SHOWN else ""
    return (
        f"{what} ({shown}{more}): the same cells are counted again, so that totals are too high and intervals too "
        "narrow. A field or a cell counts once: remove the copies and run again",
    )


def _named(names: Sequence[str]) -> str:
    shown = " = ".join(in_a_line(name) for name in names[:_SHOWN_NAMES])
    left = len(names) - _SHOWN_NAMES
    return f"{shown} = {left} more" if left > 0 else shown


def copies_of_samples(samples: Iterable[Sample]) -> tuple[str, ...]:
    """`copies_note` of the images of a dataset. Only images of equal size on disk are read."""
    by_size: dict[int, list[Sample]] = {}
    for sample in samples:
        try:
            by_size.setdefault(os.stat(sample.path).st_size, []).append(sample)  # noqa: PTH116  # too long a name
        except (OSError, ValueError):  # the image is not needed to count
            continue
    alike = [sample for some in by_size.values() if len(some) > 1 for sample in some]
    return copies_note((sample.path.name, sha256_of(sample.path)) for sample in alike)
