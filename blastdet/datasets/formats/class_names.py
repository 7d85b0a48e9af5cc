"""From the class names of other people to ours."""

from __future__ import annotations

from collections.abc import Mapping

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import CELL_CLASSES


def label_of(name: str, class_map: Mapping[str, str] | None, where: str) -> int:
    """Index into `CELL_CLASSES` of a foreign class name.

    A name in `class_map` is taken as told there; otherwise it must be one of ours, in any case, singular or plural
    (``WBC``, ``Platelets``).

    Parameters
    ----------
    name : str
    class_map : mapping, optional
        Foreign name -> one of `CELL_CLASSES`; exact spelling.
    where : str
        The file, for the message.

    Raises
    ------
    FormatError
        If the name is not known; the line lists the names on both sides.
    """
    given = dict(class_map or {})
    ours = check_class_map(given).get(name)
    if ours is None:
        plain = name.strip().casefold()
        ours = next((known for known in CELL_CLASSES if plain in (known, known + "s")), None)
    if ours is None:
        mapped = f" and the mapped {', '.join(given)}" if given else ""
        expected = f"{', '.join(CELL_CLASSES)}{mapped} expected"
        raise FormatError(
            f"{where}: class {name!r} found, {expected}; say what it is with --map {name}=... (in a "
            f"configuration: options: {{class_map: {{{name}: wbc}}}})"
        )
    return CELL_CLASSES.index(ours)


def check_class_map(class_map: Mapping[str, str]) -> Mapping[str, str]:
    """`class_map` itself, once every class it leads to is one of ours (else `ConfigError`)."""
    for foreign, ours in class_map.items():
        if ours not in CELL_CLASSES:
            raise ConfigError(
                f"--map {foreign}={ours}: class {ours!r} found, one of {', '.join(CELL_CLASSES)} expected"
            )
    return class_map
