"""The run log in memory; `tests/cli/test_detect.py` has what it does in interrupted and resumed runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blastdet.inference.run_log import RunLog


def _entry(name: str) -> dict[str, Any]:
    return {"name": name, "image_sha256": name, "size_wh": [4, 3], "mpp": [0.1, 0.2], "mpp_measured": True}


class _AddingNames(list[str]):
    """Names of images; a look-up adds another image to the log, as another thread may."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(["a", "b"])
        self.log = log

    def __contains__(self, name: object) -> bool:
        self.log.add(_entry(f"after {name}"))
        return super().__contains__(name)


def test_scales_are_read_while_other_images_finish(tmp_path: Path) -> None:
    log = RunLog(tmp_path, {})
    for name in ("a", "b"):
        log.add(_entry(name))
    assert log.measured((4, 3), _AddingNames(log)) == [(0.1, 0.2), (0.1, 0.2)]
    assert log.measured((3, 4), ["a", "b"]) == []
