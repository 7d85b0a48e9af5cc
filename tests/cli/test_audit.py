"""``blastdet audit``: output, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from audited import add, box_xml, first
from click.testing import CliRunner

from blastdet.cli import cli


def test_command_line(faulty: Path, tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "audit.json"
    fine = runner.invoke(cli, ["audit", str(faulty), "--strict", "--no-overlaps"])
    assert (fine.exit_code, "findings: none" in fine.output) == (0, True)
    add(faulty, "p06", box_xml("RBC", *(side + 1 for side in first(faulty, "p06", "RBC"))))
    (faulty / "Annotations" / "p15.xml").unlink()
    loose = runner.invoke(cli, ["audit", str(faulty), "--no-overlaps"])
    assert loose.exit_code == 0
    strict = runner.invoke(cli, ["audit", str(faulty), "--strict", "--no-overlaps", "--json", str(out)])
    assert strict.exit_code == 1
    lines = strict.output.splitlines()
    assert any(line.startswith("warning\tdoubled\tJPEGImages/p06.png\t(") for line in lines)
    assert lines[-1] == "findings: 1 warning, 1 info"
    data = json.loads(out.read_text())
    assert [f["rule"] for f in data["findings"]] == ["doubled", "orphan"]
    assert data["statistics"]["overlaps_looked_for"] is False
    assert "Research Use Only" in data["notice"]
    assert "Not for use in diagnostic procedures" in data["notice"]


def test_command_line_bad_input(tmp_path: Path) -> None:
    for arguments in ([str(tmp_path / "nowhere")], [str(tmp_path)], [str(tmp_path), "--from", "nothing"]):
        answer = CliRunner().invoke(cli, ["audit", *arguments])
        assert answer.exit_code == 2
        assert answer.output.startswith("Error: ")
        assert len(answer.output.splitlines()) == 1


def test_json_does_not_replace_another_file(clean_set: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text("mine")
    answer = CliRunner().invoke(cli, ["audit", str(clean_set), "--no-overlaps", "--json", str(notes)])
    assert (answer.exit_code, notes.read_text()) == (2, "mine")
