"""Class names of other tools and datasets, mapped to `CELL_CLASSES`."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastdet.core.constants import CELL_TYPES, SMUDGE
from blastdet.core.errors import ConfigError, FormatError, shown
from blastdet.core.types import CELL_CLASSES, Detections
from blastdet.datasets.annotations.cell_types import type_of

LEFT_OUT = ""
"""Value of a class map for classes whose cells are not read."""

_SHOWN = 20  # unknown classes in one message
# How other datasets call the classes: for the suggestion in the message only.
_WORDS = {
    "wbc": ("leuko", "leuco", "white", *(name for name in CELL_TYPES if name not in ("blast", "erythroblast"))),
    "platelet": ("platelet", "thrombo", "plt"),
    "blast": ("blast",),
    "rbc": ("erythro", "red", "rbc"),
}


class AskedMap(dict[str, str]):
    """A class map that keeps the names it was asked for: readers ask for each class of their files."""

    def __init__(self, class_map: Mapping[str, str]) -> None:
        super().__init__(class_map)
        self.asked: dict[str, None] = {}

    def get(self, name: str, default: Any = None) -> Any:
        """The class of a name; the name counts as one that the files have."""
        self.asked[name] = None
        return super().get(name, default)

    def unused(self) -> tuple[str, ...]:
        """A note on mapped names that the files do not have, such as mistyped ones; none if all occur."""
        absent = [name for name in self if name not in self.asked]
        if not absent:
            return ()
        return (f"--map: no class {_listed(absent, ' or ')} in these files. They have {_listed(list(self.asked))}",)


def _listed(names: Sequence[str], last: str = ", ") -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", " if more else last).join(shown(name) for name in names[:_SHOWN]) + more or "none"


def labels_of_names(names: Mapping[str, int], class_map: Mapping[str, str] | None, where: str) -> dict[str, int | None]:
    """Index into `CELL_CLASSES` of each class name; ``None`` for a class that is left out.

    Names in `class_map` come first. Any other name must be one of `CELL_CLASSES`, in any case, singular or plural
    (``WBC``, ``Platelets``), or a cell type (``Myeloblast``, ``segmented neutrophil``): blasts of any kind are
    ``blast``, other nucleated cells ``wbc``; see `type_columns`. Raises `FormatError` if a class is unknown. The
    message lists all unknown classes, and the options that map them.

    Parameters
    ----------
    names : mapping
        Class name of the file -> number of its cells, for the message; 0 if it is not known.
    class_map : mapping, optional
        Class name of the file -> one of `CELL_CLASSES`, or `LEFT_OUT`. Names must match exactly.
    where : str
        The file or folder, for the message.
    """
    given = check_class_map(class_map or {})
    labels = {name: _label(name, given) for name in names}
    unknown = {name: names[name] for name, label in labels.items() if label == _UNKNOWN}
    if unknown:
        raise FormatError(f"{where}: {_unknown_classes(unknown, given)}")
    return labels


def label_of(name: str, class_map: Mapping[str, str] | None, where: str) -> int | None:
    """Index into `CELL_CLASSES` of one class name, or ``None`` if it is left out; see `labels_of_names`."""
    return labels_of_names({name: 0}, class_map, where)[name]


def check_class_map(class_map: Mapping[str, str]) -> Mapping[str, str]:
    """Return `class_map` if it maps to `CELL_CLASSES` and `LEFT_OUT` only.

    Raises `ConfigError` if it maps to any other class.
    """
    for name, label in class_map.items():
        if label not in (*CELL_CLASSES, LEFT_OUT):
            known = ", ".join(CELL_CLASSES)
            raise ConfigError(
                f"--map {name:.60}={label!s:.60}: expected one of {known}, or nothing to leave the class out, "
                f"got {shown(label)}"
            )
    return class_map


def parse_class_map(pairs: tuple[str, ...]) -> dict[str, str] | None:
    """The class map of options ``--map NAME=CLASS``; ``None`` without any.

    Raises `ConfigError` if a pair has no ``=``, or an unknown class.

    Examples
    --------
    >>> parse_class_map(("Leukocyte=wbc", "Region="))
    {'Leukocyte': 'wbc', 'Region': ''}
    """
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--map: expected NAME=CLASS, got {pair:.60}")
    split = [pair.rpartition("=") for pair in pairs]
    return dict(check_class_map({name: label for name, _, label in split})) or None


def with_types(cells: Detections, names: Sequence[str], mapped: Container[str] = ()) -> Detections:
    """Cells with the columns that class names with a cell type add; what the file states itself is kept.

    A name in `mapped`, the class map, adds none: the user has said what it stands for.
    """
    if cells.cell_type is not None:
        return cells
    columns = type_columns(["" if name in mapped else name for name in names])
    if cells.ignore is not None:
        columns.pop("ignore", None)
    return cells.with_columns(**columns)


def type_columns(names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Columns of `Detections` that class names with a cell type add; empty if none has one.

    Parameters
    ----------
    names : sequence of str
        Class name of each cell, as the file states it.

    Returns
    -------
    dict
        ``cell_type`` (n,): the name as stated, where it is a type. ``ignore`` (n,): smudges and artefacts.

    Examples
    --------
    >>> type_columns(["WBC", "Segmented neutrophil"])["cell_type"].tolist()
    ['', 'Segmented neutrophil']
    >>> type_columns(["WBC", "RBC"])
    {}
    """
    types = [None if name.strip().casefold() in CELL_CLASSES else type_of(name) for name in names]
    if not any(types):
        return {}
    return {
        "cell_type": np.array([name if kind else "" for name, kind in zip(names, types, strict=True)]),
        "ignore": np.array([kind == SMUDGE for kind in types]),
    }


def types_note(cells: Iterable[Detections]) -> tuple[str, ...]:
    """A note on class names that were read as cell types; none if no cell has one."""
    count: Counter[tuple[str, str]] = Counter()
    for some in cells:
        if some.cell_type is not None:
            named = zip(some.cell_type.tolist(), some.label.tolist(), strict=True)
            count.update((name, CELL_CLASSES[label]) for name, label in named if name)
    if not count:
        return ()
    listed = ", ".join(f"{n:,} {name:.40} as {label}" for (name, label), n in count.most_common(_SHOWN))
    more = f" and {len(count) - _SHOWN} more types" if len(count) > _SHOWN else ""
    return (f"cell types: {listed}{more}",)


_UNKNOWN = -1


def _label(name: str, class_map: Mapping[str, str]) -> int | None:
    known = class_map.get(name)
    if known is None:
        plain = name.strip().casefold()
        known = next((label for label in CELL_CLASSES if plain in (label, label + "s")), None)
    if known is None and (kind := type_of(name)) is not None:
        known = "blast" if kind == "blast" else "wbc"
    if known == LEFT_OUT:
        return None
    return _UNKNOWN if known is None else CELL_CLASSES.index(known)


def _unknown_classes(unknown: Mapping[str, int], class_map: Mapping[str, str]) -> str:
    listed = [name for name, _ in Counter(unknown).most_common(_SHOWN)]
    expected = ", ".join([*CELL_CLASSES, *(f"{name:.60}" for name in list(class_map)[:_SHOWN])])
    got = ", ".join(f"{shown(name)}" + (f" ({unknown[name]:,})" if unknown[name] else "") for name in listed)
    more = f" and {len(unknown) - len(listed)} more" if len(unknown) > len(listed) else ""
    typed = [name for name in listed if len(name) <= 60 and name.isprintable()]
    options = " ".join(f"--map {shlex.quote(f'{name}={_suggested(name)}')}" for name in typed)
    them = "it" if len(unknown) == 1 else "them"
    return (
        f"expected a class out of {expected}, got {got}{more}. Map {them}: {options} (NAME= leaves a class "
        "out; in a configuration: options: {class_map: {NAME: CLASS}})"
    )


def _suggested(name: str) -> str:
    plain = name.casefold()
    if "erythroblast" in plain or "normoblast" in plain:
        return "wbc"  # a nucleated cell, as the detector is trained
    return next((label for label, words in _WORDS.items() if any(word in plain for word in words)), LEFT_OUT)
