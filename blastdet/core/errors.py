"""Errors that a user can cause and correct.

::

    BlastdetError                 one line: what is wrong, what was expected, what to do
    ├── ImageError                an image that cannot be read or written
    ├── FormatError               an annotation file that cannot be read or written
    ├── ConfigError               a setting that is unknown or out of range
    ├── WeightsError              missing, mismatched or modified weights
    ├── ScaleError                a scale (µm/px) that is unknown or impossible
    ├── ReviewError               a review session that cannot be started
    ├── ServiceError              a service (``blastdet serve``) that refuses a request or does not answer
    └── DependencyError           an optional package that is not installed

The command line prints the line and exits with 2. A batch continues with its other files and exits with 1.
"""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Sequence
from typing import Any

_MOST = 2000  # characters of a message; the start and the end, which says what to do, are kept
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class BlastdetError(Exception):
    """Base class of all errors that a user can cause. The message is one printable line of bounded length."""

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if len(text) > _MOST:
            text = f"{text[: _MOST - 300]} … {text[-300:]}"
        super().__init__(printable(text))


def printable(text: str) -> str:
    """Text whose control characters are shown as escapes, so that a name cannot steer a terminal. Line breaks stay.

    Examples
    --------
    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def name_key(name: object) -> tuple[str, str]:
    """Sorts names as people do: capitals and accents count only between names that are equal otherwise.

    Examples
    --------
    >>> sorted(["Zoe", "anna", "Ärmel", "Bert"], key=name_key)
    ['anna', 'Ärmel', 'Bert', 'Zoe']
    """
    text = str(name)
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter)), text


def in_a_line(name: str, most: int = 80) -> str:
    """The name of a file, folder or class in a printed line: no control characters, the middle of a long one left out.

    Examples
    --------
    >>> in_a_line("a\\nb"), in_a_line("x" * 9 + "12", 6)
    ('a\\\\nb', 'xxx…12')
    """
    if len(name) > 2 * most:
        name = name[:most] + name[-most:]
    plain = printable(name).replace("\n", "\\n").replace("\t", "\\t")
    half = most // 2
    return plain if len(plain) <= most else f"{plain[:half]}…{plain[-(most - half - 1) :]}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names in a printed line, each as `in_a_line` shows it; those after `most` are counted.

    Examples
    --------
    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(in_a_line(name) for name in names[:most]) + more


class _Bounded(reprlib.Repr):
    """`repr` that never builds more than it shows: aliases of a short YAML file may stand for gigabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxset = 2, 20, 20, 10, 10
        self.maxstring = self.maxother = 300

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 200 else f"<a number of {x.bit_length()} bits>"


_bounded = _Bounded()


def shown(value: object, most: int = 60) -> str:
    """A value of a file in a message, at most `most` characters; large ones are never written out.

    Examples
    --------
    >>> shown(["a", [1, [2]]]), shown("x" * 100, 8)
    ("['a', [1, [...]]]", "'xxxxx…'")
    """
    text = _bounded.repr(value)
    return text if len(text) <= most else f"{text[: most - 2]}…{text[-1]}"


class ImageError(BlastdetError):
    """An image that cannot be read or written."""


class FormatError(BlastdetError):
    """An annotation file that cannot be read or written."""


class ConfigError(BlastdetError):
    """A setting that is unknown, missing or out of range."""


class WeightsError(BlastdetError):
    """Weights that are missing, mismatched or not the ones their card describes."""


class ScaleError(BlastdetError):
    """A scale (µm/px) that is unknown or impossible."""


class ReviewError(BlastdetError):
    """A review session that cannot be started: no database, a port or a name in use."""


class ServiceError(BlastdetError):
    """A service that refuses a request, or does not answer.

    Parameters
    ----------
    message : str
    status : int, optional
        Of the answer, such as 404.
    concerns_all : bool
        Whether any other request would fail alike: the service does not answer, or not to this user.
    """

    def __init__(self, message: str, status: int | None = None, *, concerns_all: bool = False) -> None:
        super().__init__(message)
        self.status, self.concerns_all = status, concerns_all


class DependencyError(BlastdetError):
    """A required optional package that is not installed."""


def one_line(error: BaseException) -> str:
    """The message of an exception in one line of at most 160 characters."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:160] or type(error).__name__


def last_line(error: BaseException) -> str:
    """The last line of a message of a C++ runtime, which comes after source locations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def counted(n: int, what: str) -> str:
    """A number with its noun, which takes an s unless the number is 1.

    Examples
    --------
    >>> counted(1, "cell"), counted(0, "other image")
    ('1 cell', '0 other images')
    """
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def differing(before: Any, now: Any, name: str = "") -> list[str]:
    """Names of the settings that differ between two configurations.

    Parameters
    ----------
    before, now : nested dicts and lists
    name : str
        Prefix of the names.

    Returns
    -------
    list of str
        Empty if they are equal.

    Examples
    --------
    >>> differing({"lr": 0.1, "data": [{"path": "a"}]}, {"lr": 0.1, "data": [{"path": "b"}]})
    ['data.0.path']
    """
    if all(isinstance(tree, list) and all(isinstance(one, dict) for one in tree) for tree in (before, now)):
        before, now = (dict(enumerate(tree)) for tree in (before, now))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [name or "all of it"]
    keys = [*before, *(key for key in now if key not in before)]
    found = [differing(before.get(key), now.get(key), f"{name}.{key}" if name else str(key)) for key in keys]
    return [one for part in found for one in part]
