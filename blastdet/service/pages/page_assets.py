"""Scripts and styles of the pages: their own and those of the viewer, under one folder of addresses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from blastdet.viewer.viewer_page import SCRIPTS

_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """A file that a page loads.

    Parameters
    ----------
    content : bytes
    media_type : str
    etag : str
        Changes with the content, so that an upgrade reaches every browser.
    """

    content: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Name -> file. Nothing else is served, whatever a request names."""
    own = files("blastdet.service.pages") / "static"
    viewer = files("blastdet.viewer") / "static"
    found = {one.name: one for one in own.iterdir()}
    found |= {name: viewer / name for name in ("style.css", *SCRIPTS) if name not in ("keep.js", "standalone.js")}
    made = {}
    for name, file in found.items():
        content = file.read_bytes()
        kind = _TYPES.get(name.rpartition(".")[2])
        if kind is not None:
            made[name] = Asset(content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
    return made
