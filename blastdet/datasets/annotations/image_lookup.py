"""Find the image that an annotation file names, as annotation programs write names.

They write paths of other machines, with ``\\`` or percent-encoding, in another Unicode form than the file system, or
with a prefix that an upload added.
"""

from __future__ import annotations

import re
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blastdet.core.errors import FormatError, ImageError
from blastdet.imaging.io import find_images

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio puts it before the name of an uploaded file
_LONGEST = 4096
_LAYOUT = ("images", "image", "img", "imgs", "jpegimages", "default", "data", "train", "val", "valid", "test")


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

    def nearest(self, stem: str, near: Path) -> Path | None:
        """As `find_stem`, but the first of images that fit equally well: an audit looks at faulty sets too."""
        found = self.by_stem.get(plain(stem), ())
        return max(found, key=lambda path: _fit(path, (), near), default=None)

    def moved(self, found: Iterable[tuple[str, Path]]) -> list[tuple[str, str]]:
        """Of names and the images found for them, those whose folder is another than the one in the name.

        A name without a folder, an image in no folder or in one of a usual layout (``images``, a split), and the number
        of an upload contradict nothing.
        """
        moved = []
        for name, path in found:
            stated = [PurePosixPath(form) for form in _candidates(name)]
            place = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name
            folder = plain(PurePosixPath(place).parent.name).casefold()
            folders = {form.parent.name.casefold() for form in stated} - {""}
            if folder not in ("", *_LAYOUT) and folders and folder not in folders and not _is_upload(stated):
                moved.append((name, place))
        return moved

    def _best(self, found: Sequence[Path], parts: tuple[str, ...], near: Path) -> Path:
        ranked = sorted(found, key=lambda path: _fit(path, parts, near), reverse=True)
        if len(ranked) > 1 and _fit(ranked[0], parts, near) == _fit(ranked[1], parts, near):
            one, two = (path.relative_to(self.root).as_posix() for path in sorted(ranked[:2]))
            what = "/".join(parts) or near.stem
            raise FormatError(f"{near}: {what:.120}: expected one image of that name, got two: {one:.120}, {two:.120}")
        return ranked[0]


def _fit(path: Path, parts: tuple[str, ...], near: Path) -> tuple[int, bool, int, int]:
    """How well an image fits a stated path, then how near it is to the annotation file `near`."""
    own = tuple(plain(part) for part in path.parts)
    common = sum(1 for part in path.parent.parts if part in near.parent.parts)
    return _same_end(own, parts), own[-1:] == parts[-1:], common, -len(path.parts)


def _is_upload(names: Iterable[PurePosixPath]) -> bool:
    return any("upload" in name.parts[-3:-1] for name in names)


def moved_note(moved: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """A note on images that were found in another folder than stated; see `ImageLookup.moved`."""
    if not moved:
        return ()
    images = "1 image was" if len(moved) == 1 else f"{len(moved):,} images were"
    name, place = moved[0]
    return (f"{images} found by name in another folder than stated; first: {name:.120}, read from {place:.120}",)


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
    if "://" in stated or "?d=" in stated:  # Label Studio: /data/local-files/?d=folder/a.jpg, or the address of a file
        with suppress(ValueError):  # no address after all
            address = urllib.parse.urlsplit(stated)
            query = urllib.parse.parse_qs(address.query).get("d")
            stated = plain(query[0] if query else address.path)
    decoded = plain(urllib.parse.unquote(stated))
    for form in dict.fromkeys((stated, decoded)):
        yield form
    for form in dict.fromkeys((stated, decoded)):
        folder, _, last = form.rpartition("/")
        if _UPLOAD.match(last):
            yield f"{folder}/{_UPLOAD.sub('', last)}"
