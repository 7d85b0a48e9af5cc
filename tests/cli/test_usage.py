"""What a user types wrongly: one line that says what, where to read more, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from made import voc, voc_xml

from blastdet.cli import cli


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["convrt"], "Error: No such command 'convrt'."),
        (["--nope"], "Error: No such option"),
        (["convert"], "Error: Missing argument 'SRC'. See 'cli convert --help'."),
        (["convert", "a", "b", "--nope"], "Error: No such option"),
        (["convert", "a", "b", "--mpp", "nan"], "Error: Invalid value for '--mpp': nan found, a number expected."),
        (["convert", "a", "b", "--mpp", "inf"], "Error: Invalid value for '--mpp': inf found, a number expected."),
        (["synth", "x", "--n", "0"], "Error: Invalid value for '--n': 0 is not in the range x>=1."),
        (["split", "a"], "Error: Missing argument 'OUT'. See 'cli split --help'."),
        (["synth", "x.tif", "--size", "9" * 5000 + "x1"], "Error: --size: '9999"),
        (["data", "gett"], "Error: No such command 'gett'."),
        (
            ["evaluate", "--data", "a", "--out", "b", "--threshold", "nan"],
            "Error: Invalid value for '--threshold': nan found, a number expected.",
        ),
        (["split", "a", "b", "--keys", "k.csv"], "Error: --keys k.csv: none of its columns is named, --group-by or"),
    ],
)
def test_usage_errors_are_one_line(words: list[str], line: str) -> None:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert result.output.startswith(line)
    assert result.output.count("\n") == 1


def test_no_command_shows_the_help() -> None:
    result = CliRunner().invoke(cli, [])
    assert result.exit_code == 2
    assert "Commands:" in result.output


@pytest.mark.parametrize("name", ["coco", "yolo", "geojson"])
def test_audit_of_a_format_that_is_not_there(tmp_path: Path, name: str) -> None:
    source = voc(tmp_path / "src", {"a": voc_xml([("WBC", 1, 1, 9, 9)])})
    result = CliRunner().invoke(cli, ["audit", str(source), "--from", name])
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


def test_a_file_that_is_no_data_set_is_not_audited_with_its_folder(tmp_path: Path) -> None:
    source = voc(tmp_path / "src", {"a": voc_xml([("WBC", 1, 1, 9, 9)])})
    (source / "notes").touch()
    result = CliRunner().invoke(cli, ["audit", str(source / "notes")])
    assert result.exit_code == 2
    assert "expected a dataset in a known format" in result.output


def test_a_loop_of_links_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "x")
    result = CliRunner().invoke(cli, ["convert", str(tmp_path / "x"), str(tmp_path / "o")])
    assert result.exit_code == 2
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1


def test_what_is_not_ours_is_not_replaced(tmp_path):
    """Reports and truths go over older ones of their kind, and over nothing else."""
    foreign = tmp_path / "truth.json"
    foreign.write_text('{"images": [], "annotations": [], "categories": []}')
    content = foreign.read_text()
    demo = Path(__file__).parents[2] / "datasets/demo/truth.json"
    for words in (["audit", demo, "--no-overlaps", "--json", foreign], ["synth", tmp_path, "--size", "64x64"]):
        done = CliRunner().invoke(cli, [str(word) for word in words])
        assert done.exit_code == 2 and "truth.json: expected a new file or a" in done.output
        assert foreign.read_text() == content
    for words in (["audit", demo, "--no-overlaps", "--json", tmp_path / "a.json"], ["synth", tmp_path / "films"]):
        for _ in range(2):
            assert CliRunner().invoke(cli, [str(word) for word in words]).exit_code == 0
