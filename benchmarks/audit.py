"""Recall and speed of the search for overlapping fields: ``python benchmarks/audit.py [--all-fields CLASS]``.

Prints the recall of the pairs and groups that the datasets list, the pairs that are not listed (to be checked by eye),
and seconds for the registration alone and for a complete audit. The datasets are in BLASTDET_DATA, or ../shared/data.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from blastdet.audit.folder_audit import audit_folder
from blastdet.audit.overlapping_fields import Overlap, connected, find_overlaps

DATA = Path(os.environ.get("BLASTDET_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))


def clock() -> tuple[float, float]:
    """Wall and CPU seconds."""
    return time.perf_counter(), time.process_time()


def listed_pairs(file: Path, columns: tuple[str, str]) -> set[frozenset[str]]:
    """Pairs of names in a CSV file."""
    with file.open() as lines:
        return {frozenset(row[column] for column in columns) for row in csv.DictReader(lines)}


def groups_of(pairs: Iterable[frozenset[str]]) -> set[frozenset[str]]:
    """Sets of names that are connected by pairs."""
    group = connected((Path(a), Path(b)) for a, b in map(sorted, pairs))
    names = set(group.values())
    return {frozenset(p.as_posix() for p, g in group.items() if g == name) for name in names}


def compare(name: str, paths: list[Path], listed: set[frozenset[str]], key: Callable[[Path], str]) -> None:
    """Print recall and time for one dataset."""
    start = clock()
    overlaps = find_overlaps(paths)
    wall, cpu = (b - a for a, b in zip(start, clock(), strict=True))
    here = {key(path) for path in paths}
    listed = {pair for pair in listed if pair <= here}
    found: dict[frozenset[str], Overlap] = {frozenset((key(o.a), key(o.b))): o for o in overlaps}
    groups, measured = groups_of(listed), groups_of(found)
    complete = sum(any(group <= other for other in measured) for group in groups)
    number = len(paths) * (len(paths) - 1) // 2
    print(f"{name}: {len(paths)} images, {number} pairs, {wall:.1f} s wall, {cpu:.1f} s CPU")
    print(
        f"  listed pairs found {len(listed & set(found))} of {len(listed)}; complete groups {complete} of {len(groups)}"
    )
    print(f"  lowest ncc of a listed pair {min((found[p].ncc for p in listed & set(found)), default=0):.3f}")
    for pair in listed - set(found):
        print(f"  missed: {' '.join(sorted(pair))}")
    for pair in set(found) - listed:
        o = found[pair]
        print(f"  not listed: {key(o.a)} {key(o.b)} ncc {o.ncc:.3f} shared {o.overlap_fraction:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--all-fields", metavar="CLASS", help="one class of all_fields as well (benign, early, pre, pro)"
    )
    arguments = parser.parse_args()
    bccd = DATA / "bccd"
    paths = sorted((bccd / "BCCD" / "JPEGImages").glob("*.jpg"))
    compare("BCCD", paths, listed_pairs(bccd / "overlap_pairs.csv", ("a", "b")), lambda path: path.stem)
    start = clock()
    report = audit_folder(bccd)
    wall, cpu = (b - a for a, b in zip(start, clock(), strict=True))
    print(f"BCCD, complete audit: {len(report.findings)} findings, {wall:.1f} s wall, {cpu:.1f} s CPU")
    if arguments.all_fields:
        folder = DATA / "all_fields"
        listed = listed_pairs(folder / "overlap_pairs.csv", ("image_a", "image_b"))
        paths = sorted((folder / arguments.all_fields).glob("*.jpg"))
        compare(f"all_fields, {arguments.all_fields}", paths, listed, lambda path: f"{path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()
