"""Usage errors: one line with the fault and where to read more, and exit code 2. Renamed options keep working."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from made import voc, voc_xml

from blastdet.cli import cli


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["convrt"], "Error: No such command 'convrt'. Did you mean 'convert'? See 'cli --help'."),
        (["diagnose"], "Error: No such command 'diagnose'. See 'cli --help'."),
        (["--nope"], "Error: No such option"),
        (["convert"], "Error: Missing argument 'SRC'. See 'cli convert --help'."),
        (["convert", "a", "b", "--nope"], "Error: No such option"),
        (["convert", "a", "b", "--resample", "nan"], "Error: Invalid value for '--resample': expected a number, got"),
        (["convert", "a", "b", "--mpp", "inf"], "Error: Invalid value for '--mpp': expected X or X,Y (µm/px between"),
        (["synth", "x", "--n", "0"], "Error: Invalid value for '--n': 0 is not in the range x>=1."),
        (["split", "a"], "Error: Missing argument 'OUT'. See 'cli split --help'."),
        (["synth", "x.tif", "--size", "9" * 5000 + "x1"], "Error: --size: expected WIDTHxHEIGHT in pixels"),
        (["data", "gett"], "Error: No such command 'gett'."),
        (
            ["evaluate", "--data", "a", "--out", "b", "--threshold", "nan"],
            "Error: Invalid value for '--threshold': expected a number, got nan.",
        ),
        (["split", "a", "b", "--keys", "k.csv"], "Error: --keys k.csv: expected --group-by or --purge"),
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
def test_audit_of_another_format_is_an_error(tmp_path: Path, name: str) -> None:
    source = voc(tmp_path / "src", {"a": voc_xml([("WBC", 1, 1, 9, 9)])})
    result = CliRunner().invoke(cli, ["audit", str(source), "--from", name])
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


def test_audit_of_a_file_does_not_fall_back_to_its_folder(tmp_path: Path) -> None:
    source = voc(tmp_path / "src", {"a": voc_xml([("WBC", 1, 1, 9, 9)])})
    (source / "notes").touch()
    result = CliRunner().invoke(cli, ["audit", str(source / "notes")])
    assert result.exit_code == 2
    assert "expected a dataset in a known format" in result.output


def test_a_loop_of_links_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "x")
    result = CliRunner().invoke(cli, ["convert", str(tmp_path / "x"), str(tmp_path / "o")])
    assert result.exit_code == 2
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1


def test_files_of_other_programs_are_not_replaced(tmp_path):
    """An output file replaces an older file of the same kind, and no other."""
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


NOWHERE = "no-such-dataset"
RENAMED = [
    (["convert", NOWHERE, "out"], "--source-mpp", "--mpp", "0.1"),
    (["compare", "default", "default", "--data", NOWHERE, "--out", "out"], "--format", "--from", "coco"),
    (["crops", NOWHERE, "out"], "--format", "--from", "coco"),
    (["crops", NOWHERE, "out"], "--probe", "--negative-control", "covered"),
    (["evaluate", "--data", NOWHERE, "--weights", "default", "--out", "out"], "--format", "--from", "coco"),
    (["review", "--data", NOWHERE, "--weights", "default", "--html", "out"], "--format", "--from", "coco"),
    (["review", "export", "--data", NOWHERE, "--corrections", "c.jsonl", "out"], "--format", "--from", "coco"),
    (["robustness", "--data", NOWHERE, "--out", "out"], "--format", "--from", "coco"),
]


@pytest.mark.parametrize(
    ("words", "old", "new", "value"), RENAMED, ids=lambda value: value if isinstance(value, str) else value[0]
)
@pytest.mark.parametrize("joined", [True, False])
def test_a_renamed_option_works_under_its_old_name_with_a_note(tmp_path, monkeypatch, words, old, new, value, joined):
    monkeypatch.chdir(tmp_path)

    def run(name: str):
        given = [f"{name}={value}"] if joined else [name, value]
        return CliRunner().invoke(cli, [*words, *given])

    before, after = run(old), run(new)
    assert before.stderr == f"note: {old} is now {new}\n{after.stderr}"
    assert after.exit_code == before.exit_code == 2
    assert "no-such-dataset" in after.stderr or "c.jsonl" in after.stderr
    subcommand = words[: 2 if words[1] == "export" else 1]
    options = CliRunner().invoke(cli, [*subcommand, "--help"]).output.partition("Options:")[2]
    assert f"  {new} " in options and f"  {old} " not in options
    both = CliRunner().invoke(cli, [*words, old, value, new, value])
    assert both.exit_code == 2 and both.stderr.startswith(f"Error: {old} is now {new}")


def test_convert_refuses_mpp_where_it_used_to_resample(tmp_path):
    """Up to version 0.1, ``convert --mpp`` resampled. Now it is the scale of the images."""
    source = voc(tmp_path / "src", {"a": voc_xml([("WBC", 1, 1, 9, 9)])})

    def run(*words: str):
        return CliRunner().invoke(cli, ["convert", str(source), str(tmp_path / "out"), "--overwrite", *words])

    bare = run("--mpp", "0.25")  # voc states no scale for this image: --mpp can only mean the new thing
    assert bare.exit_code == 0, bare.output
    for words in (["--mpp", "0.25"], ["--mpp=0.25"]):
        refused = CliRunner().invoke(cli, ["convert", str(tmp_path / "out"), str(tmp_path / "next"), *words])
        assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
        assert "use --resample 0.25" in refused.stderr and "use --mpp 0.25,0.25" in refused.stderr
    foreign = voc(tmp_path / "foreign", {"a": voc_xml([("Leukocyte", 1, 1, 9, 9)])})
    words = ["convert", str(foreign), str(tmp_path / "mapped"), "--mpp", "0.25", "--map", "Leukocyte=wbc"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    for words in (["--mpp", "0.25,0.25"], ["--mpp", "0.25", "--resample", "0.5"], ["--resample", "0.5"]):
        done = CliRunner().invoke(
            cli, ["convert", str(tmp_path / "out"), str(tmp_path / words[-1]), "--overwrite", *words]
        )
        assert done.exit_code == 0, done.output
