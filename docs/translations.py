"""Collect the texts of the service's pages, and bring the translations up to date.

    python docs/translations.py

Writes ``pages.pot`` and adds new texts, without a translation, to each ``pages.po`` in the folder ``locale`` of
`blastdet.service.pages`. Translate what is empty there; texts without a translation are shown in English.
"""

from __future__ import annotations

import io
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from blastdet.core.constants import RESEARCH_USE
from blastdet.inference.outputs.run_totals import PLURALS
from blastdet.service.pages.page_assets import assets
from blastdet.service.pages.rendering import ACTIONS, FAILED, FAILURES
from blastdet.service.pages.translations import LANGUAGES
from blastdet.viewer.viewer_page import kinds

PACKAGE = Path(__file__).resolve().parents[1] / "blastdet"
LOCALE = PACKAGE / "service/pages/locale"
METHODS = [("**.jinja", "jinja2"), ("**.js", "javascript")]
HEAD = (
    'msgid ""\nmsgstr ""\n"Language: {}\\n"\n"MIME-Version: 1.0\\n"\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
)
WORDS = (
    *("new", "reviewed", "signed", "read", "write", "detect", "correct and sign", "no cell", "ignored"),
    *("right", "as before", "deleted by you", "ignored by you", "reviewed by you", "drawn by you", "no access"),
    *("wbc", ": ", "; "),
)
"""Values that pages show by way of a variable."""

SENTENCES = LOCALE / "sentences.txt"
"""Sentences that come with a result, and the parts that they are made of; see ``sentences.js``."""


def texts() -> list[str]:
    """All texts of the pages, sorted."""
    found = {RESEARCH_USE, *WORDS, *ACTIONS.values(), *FAILED, *(str(kind["title"]) for kind in kinds())}
    found.update(PLURALS.values(), SENTENCES.read_text("utf-8").splitlines())
    found.update(text for failure in FAILURES.values() for text in failure)
    for folder in (PACKAGE / "service/pages", PACKAGE / "viewer/static"):
        for file, _, message, _, _ in extract_from_dir(str(folder), METHODS, keywords={"_": None, "t": None}):
            if file.endswith(".js") and Path(file).name not in assets():
                continue  # a script of index.html only
            found.add(message if isinstance(message, str) else message[0])
    return sorted(found)


def written(catalog: Catalog, language: str = "") -> str:
    """A catalog as its file, without dates and places, which change all the time."""
    for message in catalog:
        message.flags -= {"python-format", "python-brace-format"}  # a "%" is a per cent sign here
    file = io.BytesIO()
    write_po(file, catalog, omit_header=True, no_location=True, width=0, sort_output=True)
    return HEAD.format(language) + file.getvalue().decode()


def files() -> dict[Path, str]:
    """Every file, as it should be."""
    template = Catalog()
    for text in texts():
        template.add(text)
    found = {LOCALE / "pages.pot": written(template)}
    for language in LANGUAGES:
        path = LOCALE / language / "LC_MESSAGES/pages.po"
        if language == "en":
            continue
        catalog = Catalog(locale=language)
        if path.is_file():
            with path.open("rb") as file:
                catalog = read_po(file, locale=language)
        catalog.update(template, no_fuzzy_matching=True)
        catalog.obsolete.clear()
        found[path] = written(catalog, language)
    return found


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
