"""Texts of the pages in the language of the reader, from the .po files in ``locale``; what is not in one is English."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

LANGUAGES: dict[str, str] = {"en": "English", "de": "Deutsch", "fr": "Français", "es": "Español"}
"""Languages of the pages, under the names that their speakers use."""

_SIGNS = {"en": (",", "."), "de": (".", ","), "fr": ("\u202f", ","), "es": (".", ",")}
"""Between groups of three digits, and before the decimals."""

_ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"(?:\n|\Z))+)', re.MULTILINE)


def texts_of(po: str) -> dict[str, str]:
    """English text -> translation, of a .po file without plural forms.

    Examples
    --------
    >>> texts_of('msgid ""\\nmsgstr "Language: de"\\n\\nmsgid "Save"\\nmsgstr "Speichern"\\n')
    {'Save': 'Speichern'}
    """
    pairs = [(_text(one[1]), _text(one[2])) for one in _ENTRY.finditer(po)]
    return {msgid: msgstr for msgid, msgstr in pairs if msgid and msgstr}


def _text(quoted: str) -> str:
    return "".join(str(ast.literal_eval(line)) for line in quoted.splitlines())


@cache
def catalog(language: str) -> Mapping[str, str]:
    """All translations into a language; none into English."""
    file = files("blastdet.service.pages") / "locale" / language / "LC_MESSAGES" / "pages.po"
    return MappingProxyType(texts_of(file.read_text("utf-8")) if language != "en" and file.is_file() else {})


def translator(language: str) -> Callable[[str], str]:
    """The function ``_`` of the templates."""
    texts = catalog(language)
    return lambda text: texts.get(text, text)


def formatter(language: str) -> Callable[..., str]:
    """The function ``number`` of the templates: a number as a language writes it, as the scripts have it by `Intl`.

    Examples
    --------
    >>> [formatter(language)(1600) for language in LANGUAGES], formatter("de")(0.25, ".3g")
    (['1,600', '1.600', '1\\u202f600', '1600'], '0,25')
    """
    group, point = _SIGNS[language]

    def number(value: float, spec: str = ",") -> str:
        text = format(value, spec)
        if language == "es" and value < 10_000:  # no sign between four digits
            text = text.replace(",", "")
        return text.translate({ord(","): group, ord("."): point})

    return number


def chosen_language(cookie: str, accept: str) -> str:
    """The language of a reader.

    Parameters
    ----------
    cookie : str
        What the reader chose before, if anything.
    accept : str
        The header ``Accept-Language``.

    Examples
    --------
    >>> chosen_language("", "pt, de-CH;q=0.9, en;q=0.5"), chosen_language("fr", "de"), chosen_language("", "")
    ('de', 'fr', 'en')
    """
    if cookie in LANGUAGES:
        return cookie
    wanted = []
    for place, part in enumerate(accept.split(",")[:20]):
        name, _, quality = part.strip().partition(";q=")
        weight = float(quality) if re.fullmatch(r"[01](\.[0-9]{1,3})?", quality) else float(not quality)
        wanted.append((-weight, place, name.strip().lower().partition("-")[0]))
    return next((name for weight, _, name in sorted(wanted) if weight < 0 and name in LANGUAGES), "en")
