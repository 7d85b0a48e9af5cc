"""Hooks of the site: pages from outside docs/, links to them, and notebooks with their outputs.

The changelog, CONTRIBUTING, two pages about data and the notebooks live outside docs/, where a reader of the repository
looks for them. The site shows them too, and a link to one of them leads to its page there.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPO = Path(__file__).resolve().parents[2]
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "datasets/demo/README.md", "datasets/all_fields_boxes.md")
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and notebooks from outside docs/."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, content=(REPO / name).read_text(encoding="utf-8")))
    for name in ("LICENSE", "CITATION.cff"):
        files.append(File.generated(config, name, abs_src_path=str(REPO / name)))
    for notebook in sorted((REPO / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{notebook.name}"
        files.append(File.generated(config, f"{name}.md", content=as_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links between docs/ and the rest of the repository, as links within the site; others lose their link."""
    source = page.file.src_uri
    place = REPO / (source if _is_outside(source) else f"docs/{source}")

    def rewrite(match: re.Match[str]) -> str:
        start, target, anchor, end = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match.group(0)
        path = Path(os.path.normpath(place.parent / target))
        if not path.is_relative_to(REPO):
            return match.group(0)
        name = path.relative_to(REPO).as_posix()
        site = name.removeprefix("docs/") + (".md" if name.endswith(".ipynb") else "")
        if files.get_file_from_path(site) is None:
            return match.group(0)
        relative = os.path.relpath(site, Path(source).parent)
        return f"{start}{relative}{anchor or ''}{end}"

    return LINK.sub(rewrite, markdown)


def _is_outside(source: str) -> bool:
    return source in OUTSIDE or source.startswith("notebooks/")


def as_markdown(notebook: Path) -> str:
    """A notebook as one page: text, code, and the outputs it was saved with."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            parts += [text for output in cell["outputs"] if (text := _output(output))]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img alt="output of the cell above" src="data:{kind};base64,{"".join(data[kind]).strip()}">'
    if "text/html" in data:
        html = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        html = html.replace(' border="1" class="dataframe"', "")  # pandas; the theme's own look fits both modes
        return "<div>\n" + re.sub(r"\n\s*\n", "\n", html) + "\n</div>"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text else ""
