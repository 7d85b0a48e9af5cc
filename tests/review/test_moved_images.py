"""A review in the database follows images that moved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from blastdet.review.fiftyone_dataset import _follow_moved


class _Stored:
    """The samples of a FiftyOne dataset, as far as paths are concerned."""

    def __init__(self, paths: list[str]) -> None:
        self.paths, self.written = paths, 0

    def values(self, field: str) -> list[str]:
        assert field == "filepath"
        return self.paths

    def set_values(self, field: str, values: list[str]) -> None:
        self.paths, self.written = values, self.written + 1


def test_samples_follow_images_that_moved(tmp_path: Path) -> None:
    now = [tmp_path / "new" / f"{name}.jpg" for name in "aabc"]  # the first two are equal images
    review: Any = SimpleNamespace(dataset=[SimpleNamespace(path=path) for path in now])
    stored = _Stored(["/old/a.jpg", "/old/a.jpg", "/old/b.jpg", "/old/c.jpg"])
    _follow_moved(stored, review, ["A", "A", "B", "C"])
    assert stored.paths == [str(path.resolve()) for path in now]
    _follow_moved(stored, review, ["A", "A", "B", "C"])
    assert stored.written == 1
