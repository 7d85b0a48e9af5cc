"""Messages are bounded before they are built, and no name steers a terminal or a spreadsheet."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from blastdet.core.errors import BlastdetError, FormatError, in_a_line, listed, printable, shown
from blastdet.core.types import Detections
from blastdet.datasets import archives
from blastdet.datasets.annotations.files import parse_yaml, read_rows
from blastdet.datasets.archives import FetchError, open_source
from blastdet.datasets.formats import yolo
from blastdet.datasets.formats.csv_table import line

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)  # 433 bytes that stand for 9 ** 9 values


@pytest.mark.parametrize("key", ["names", "train", "path", "nc"])
def test_aliases_of_a_short_file_are_one_short_line(tmp_path: Path, key: str) -> None:
    (tmp_path / "data.yaml").write_text(BOMB + f"{key}: *i\n")
    with pytest.raises(FormatError, match="aliases that expand to more") as caught:
        yolo.read(tmp_path)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text", ["a: [", "&a [*a]", "- " * 100_000, "a: 1" + "0" * 5000, "\x00", "a: !!python/name:os.x"]
)
def test_yaml_that_is_none_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # the message is bounded, whatever it says
        parse_yaml(text)
    assert len(str(caught.value)) < 200


def test_values_in_messages_are_never_written_out() -> None:
    deep: list[object] = ["x" * 1000]
    for _ in range(60):
        deep = [deep] * 10  # 10 ** 60 texts
    for value in (deep, "x" * 10**6, 1 << 100_000, {"a": deep}, (deep,), None, float("nan")):
        assert len(shown(value)) <= 60


def test_a_value_that_is_cut_is_closed() -> None:
    assert shown("a" * 60, 20) == "'" + "a" * 17 + "…'"
    assert shown("a" * 18, 20) == "'" + "a" * 18 + "'"
    assert shown(list(range(100)), 12) == "[0, 1, 2, …]" and len(shown("a" * 1000)) == 60


def test_messages_have_a_limit_and_keep_their_end() -> None:
    text = str(FormatError("a" * 10**6 + " Map them: --map"))
    assert len(text) < 2100 and text.endswith("Map them: --map")


def test_control_characters_are_shown() -> None:
    assert str(BlastdetError("a\x1b]0;x\x07\u202eb.jpg")) == "a\\x1b]0;x\\x07\\u202eb.jpg"
    assert printable("µm – ü\n\t中") == "µm – ü\n\t中"


def test_fields_are_no_formulas_and_come_back(tmp_path: Path) -> None:
    names = ['=HYPERLINK("http://x","y")', "+1+1", "-a", "@x", "'=x", "plain", "'quoted", "-0.5", "\tx"]
    text = line(["image"]) + "".join(line([name]) for name in names)
    fields = [row[0] for row in csv.reader(io.StringIO(text))][1:]
    assert [field for field in fields if field[:1] in "=+-@\t"] == ["-0.5"]
    (tmp_path / "a.csv").write_text(text)
    assert [row["image"] for row in read_rows(tmp_path / "a.csv", "image")] == names


@pytest.mark.parametrize("column", ["boxes_xyxy", "score", "blast_probability", "point_xy"])
def test_no_column_holds_infinity(column: str) -> None:
    columns = {"boxes_xyxy": np.array([[1.0, 1, 5, 5]]), column: np.full((1, 4), np.inf)}
    if column != "boxes_xyxy":
        columns[column] = np.full((1, 2) if column == "point_xy" else 1, np.inf)
    with pytest.raises(ValueError, match="expected finite numbers, got infinity"):
        Detections(**columns)  # type: ignore[arg-type]


def test_a_box_is_known_or_unknown() -> None:
    nan = float("nan")
    assert len(Detections([[nan] * 4, [1, 1, 2, 2]])) == 2
    with pytest.raises(ValueError, match="expected four numbers, or NaN four times, got 1, nan, 5, 5"):
        Detections([[1, nan, 5, 5]])


def test_a_folder_whose_name_is_too_long_is_missing(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(f"train: {'1' * 5000}\nnames: [wbc]\n")
    with pytest.raises(FormatError) as caught:
        yolo.read(tmp_path)
    assert len(str(caught.value)) < 2100


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_archives_that_would_fill_the_disk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", {f"{i}.bin": bytes(10**6) for i in range(3)})
    with open_source(path) as members:  # small in all
        assert len(members) == 3
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 10**6)
    with (
        pytest.raises(FetchError, match=r"expected files of at most 200 times the size .* got 3,000,000 bytes"),
        open_source(path),
    ):
        pass
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    with pytest.raises(FetchError, match="expected at most 2 files, got 3"), open_source(path):
        pass


@pytest.mark.parametrize("name", ["a\x1b[2J.jpg", "a\nb.jpg", "a" * 1001])
def test_names_in_archives_are_printable(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(FetchError, match="expected a printable name") as caught,
        open_source(zipped(tmp_path / "a.zip", {name: b"x"})),
    ):
        pass
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_in_a_line_is_one_short_line() -> None:
    assert in_a_line("a\n\x1b[2J\tb") == "a\\n\\x1b[2J\\tb"
    assert len(in_a_line("x" * 10**7)) == 80
    assert len(listed(["y" * 300] * 500)) < 1000


def test_the_head_of_a_table_is_not_written_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": [' + ",".join(f'"{"y" * 50}{i}"' for i in range(1000)) + "]}")
    with pytest.raises(FormatError) as error:
        read_rows(tmp_path / "a.json", "image")
    assert len(str(error.value)) < 1200 and "and 990 more" in str(error.value)
