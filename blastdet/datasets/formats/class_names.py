"""Class names of other tools and datasets, mapped to `CELL_CLASSES`."""

from __future__ import annotations

from collections.abc import Mapping

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import CELL_CLASSES


def label_of(name: str, class_map: Mapping[str, str] | None, where: str) -> int:
    """Index into `CELL_CLASSES` of a class name as a file states it.

    Names in `class_map` come first. Any other name must be one of `CELL_CLASSES`, in any case, singular or plural
    (``WBC``, ``Platelets``). Raises `FormatError` if the class is unknown. The message lists all accepted names.

    Parameters
    ----------
    class_map : mapping, optional
        Class name of the file -> one of `CELL_CLASSES`. Names must match exactly.
    where : str
        The file, for the error message.
    """
    given = dict(class_map or {})
    known = check_class_map(given).get(name)
    if known is None:
        plain = name.strip().casefold()
        known = next((label for label in CELL_CLASSES if plain in (label, label + "s")), None)
    if known is None:
        expected = ", ".join([*CELL_CLASSES, *given])
        raise FormatError(
            f"{where}: expected a class out of {expected}, got {name!r:.60}. Map it: --map {name:.60}=wbc "
            f"(in a configuration: options: {{class_map: {{{name:.60}: wbc}}}})"
        )
    return CELL_CLASSES.index(known)


def check_class_map(class_map: Mapping[str, str]) -> Mapping[str, str]:
    """Return `class_map` if it maps to `CELL_CLASSES` only.

    Raises `ConfigError` if it maps to any other class.
    """
    for name, label in class_map.items():
        if label not in CELL_CLASSES:
            raise ConfigError(f"--map {name}={label}: expected one of {', '.join(CELL_CLASSES)}, got {label!r}")
    return class_map
