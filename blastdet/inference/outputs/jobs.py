"""The images of a run: which they are, their names in output files, and what of a folder is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from blastdet.core.errors import counted
from blastdet.imaging.io import find_images, is_image_name
from blastdet.inference.run_log import results_below

_SHOWN_KINDS = 5  # of files that a run leaves out


@dataclass(frozen=True)
class Job:
    """One image, and its name in output files."""

    path: Path
    name: str


def find_jobs(paths: Sequence[Path], out: Path) -> list[Job]:
    """Images that the paths stand for, named relative to the folder that was given.

    Where two would get the same name, all are named relative to their common folder. Files in the output folder and
    results of earlier runs are left out, unless a path names them.
    """
    jobs: dict[Path, Job] = {}
    results = Path(os.path.realpath(out))
    for given in paths:
        root = given if given.is_dir() else _fixed_part(given)
        earlier = results_below(given) if given.is_dir() else frozenset()
        for path in find_images(given):
            real = Path(os.path.realpath(path))  # Path.resolve() raises on a loop of links
            if str(real) in earlier:
                continue
            if real.is_relative_to(results) and not Path(os.path.realpath(given)).is_relative_to(results):
                continue
            name = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
            jobs.setdefault(real, Job(path, name.as_posix()))
    if len({job.name for job in jobs.values()}) < len(jobs):
        common = Path(os.path.commonpath([path.parent for path in jobs]))
        return [Job(job.path, path.relative_to(common).as_posix()) for path, job in jobs.items()]
    return list(jobs.values())


def need_suffixes(jobs: Sequence[Job], run_files: Iterable[str]) -> bool:
    """Whether output files keep the suffix of their image: two differ only in it, or one has the name of a run file."""
    stems = Counter(Path(job.name).with_suffix("") for job in jobs)
    of_run = {Path(name).with_suffix("") for name in run_files}
    return max(stems.values(), default=0) > 1 or not of_run.isdisjoint(stems)


def left_out(paths: Sequence[Path], jobs: Sequence[Job], out: Path) -> str:
    """What of the folders among `paths` is not processed, in one line; empty if nothing is.

    These are files that are no images by their suffix, and images that are another name of one that is processed.
    Hidden files and results in `out` are not mentioned.
    """
    done = {os.path.abspath(job.path) for job in jobs}  # noqa: PTH100 - resolve() would merge links
    results = Path(os.path.realpath(out))
    files = [file for path in paths if path.is_dir() for file in sorted(path.rglob("*")) if _is_visible(file, path)]
    rest = [file for file in files if os.path.abspath(file) not in done]  # noqa: PTH100
    rest = [file for file in rest if file.is_file() and not Path(os.path.realpath(file)).is_relative_to(results)]
    if not rest:
        return ""
    kinds = Counter("images again" if is_image_name(file) else file.suffix.lower() or "no suffix" for file in rest)
    shown = ", ".join(f"{n} {kind:.20}" for kind, n in kinds.most_common(_SHOWN_KINDS))
    more = f" and {len(kinds) - _SHOWN_KINDS} other kinds" if len(kinds) > _SHOWN_KINDS else ""
    return f"left out: {counted(len(rest), 'file')} ({shown}{more}), first: {rest[0].name!r:.120}"


def _is_visible(file: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(root).parts)


def _fixed_part(pattern: Path) -> Path:
    """Folder of a file, or of a pattern's part before the first wildcard."""
    parts = pattern.parts[:-1]
    first = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts))
    return Path(*parts[:first])
