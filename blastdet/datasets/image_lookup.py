"""Find the image that an annotation file names, as annotation programs write names.

They write paths of other machines, with ``\\`` or percent-encoding, in another Unicode form than the file system, or
with a prefix that an upload added.
"""

from __future__ import annotations

import re
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blastdet.core.errors import FormatError, ImageError
from blastdet.imaging.io import find_images

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio puts it before the name of an uploaded file
_LONGEST = 4096


def plain(name: str) -> str:
    """A name in the form in which names are compared: NFC, forward slashes.

    Examples
    --------
    >>> plain("images\\\\Mu\\u0308ller.jpg") == "images/M\\u00fcller.jpg"
    True
    """
    return unicodedata.normalize("NFC", name).replace("\\", "/")


@dataclass(frozen=True)
class ImageLookup:
    """All images below a folder, by name."""

    root: Path
    by_name: Mapping[str, Sequence[Path]]
    by_stem: Mapping[str, Sequence[Path]]

    @classmethod
    def below(cls, root: Path) -> ImageLookup:
        """Index the images below `root`; empty if there are none."""
        by_name: dict[str, list[Path]] = defaultdict(list)
        by_stem: dict[str, list[Path]] = defaultdict(list)
        try:
            found = find_images(root)
        except ImageError:
            found = []
        for path in found:
            by_name[plain(path.name).casefold()].append(path)
            by_stem[plain(path.stem)].append(path)
        return cls(root, by_name, by_stem)

    def find(self, name: str, near: Path) -> Path | None:
        """The image with a stated name: the one whose folders agree best with those in the name.

        Among images that agree equally, it is the one nearest to the annotation file `near`.

        Raises
        ------
        FormatError
            If two images fit equally well.
        """
        for candidate in _candidates(name):
            parts = PurePosixPath(candidate).parts
            found = self.by_name.get(parts[-1].casefold(), ()) if parts else ()
            if found:
                return self._best(found, parts, near)
        return None

    def find_stem(self, stem: str, near: Path) -> Path | None:
        """The image with a stem, for annotation files that have the name of their image; else as `find`."""
        found = self.by_stem.get(plain(stem), ())
        return self._best(found, (), near) if found else None

    def _best(self, found: Sequence[Path], parts: tuple[str, ...], near: Path) -> Path:
        places = near.parent.parts

        def fit(path: Path) -> tuple[int, bool, int, int]:
            own = tuple(plain(part) for part in path.parts)
            common = sum(1 for part in path.parent.parts if part in places)
            return _same_end(own, parts), own[-1:] == parts[-1:], common, -len(path.parts)

        ranked = sorted(found, key=fit, reverse=True)
        if len(ranked) > 1 and fit(ranked[0]) == fit(ranked[1]):
            one, two = (path.relative_to(self.root).as_posix() for path in sorted(ranked[:2]))
            what = "/".join(parts) or near.stem
            raise FormatError(f"{near}: {what:.120}: expected one image of that name, got two: {one:.120}, {two:.120}")
        return ranked[0]


def _same_end(one: Sequence[str], other: Sequence[str]) -> int:
    """Number of last parts of two paths that are equal, ignoring case."""
    n = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a.casefold() != b.casefold():
            break
        n += 1
    return n


def _candidates(name: str) -> Iterator[str]:
    """A stated name as a path with forward slashes, in the forms that it may have on disk, the most literal first."""
    if len(name) > _LONGEST:
        return
    stated = plain(name)
    address = urllib.parse.urlsplit(stated) if "://" in stated or "?d=" in stated else None
    if address is not None:  # Label Studio: /data/local-files/?d=folder/a.jpg, or the address of a file
        query = urllib.parse.parse_qs(address.query).get("d")
        stated = plain(query[0] if query else address.path)
    decoded = plain(urllib.parse.unquote(stated))
    for form in dict.fromkeys((stated, decoded)):
        yield form
    for form in dict.fromkeys((stated, decoded)):
        folder, _, last = form.rpartition("/")
        if _UPLOAD.match(last):
            yield f"{folder}/{_UPLOAD.sub('', last)}"
