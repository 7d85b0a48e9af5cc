"""``--images``, ``--map`` and ``--annotated``: the same for every command that reads annotations."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from made import image_file, run_in_process, voc_xml

from blastdet.cli import cli
from blastdet.core.errors import ConfigError
from blastdet.datasets.reading import read_dataset

GROUPS = {"review": ("export",)}


def commands() -> dict[str, click.Command]:
    """Commands by name, subcommands of `GROUPS` included."""
    context = click.Context(cli)
    found = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found[name] = command
        for below in GROUPS.get(name, ()):
            assert isinstance(command, click.Group)
            found[f"{name} {below}"] = command.commands[below]
    return found


def test_every_command_that_names_a_format_of_annotations_has_them() -> None:
    readers = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in commands().items()
        if any("--from" in parameter.opts or "--data" in parameter.opts for parameter in command.params)
        and not name.startswith("serve")  # its --data is the folder of the service
    }
    assert {"convert", "audit", "split", "crops", "evaluate", "review", "review export", "train"} <= set(readers)
    for name, options in readers.items():
        assert {"--images", "--map", "--annotated"} <= options, name


def labelimg(root: Path) -> Path:
    """Two annotated images whose pixels are elsewhere; returns the folder of the images."""
    for stem, names in (("a", ["Leukocyte", "Region"]), ("b", ["Blast"])):
        root.mkdir(exist_ok=True)
        text = voc_xml([(name, 17, 13, 32, 36) for name in names])
        (root / f"{stem}.xml").write_text(text, encoding="utf-8")
        image_file(root.parent / "photos" / f"{stem}.jpg", colour=(200, ord(stem), 9))
    return root.parent / "photos"


OPTIONS = ("--images", "photos", "--map", "Leukocyte=wbc", "--map", "Region=")


def test_convert_leaves_classes_out_and_takes_images_from_elsewhere(tmp_path: Path) -> None:
    labelimg(tmp_path / "labels")
    said = run_in_process(tmp_path, "convert", "labels", "out", *OPTIONS, "--annotated", "blast")
    assert "cells    blast 1, wbc 1" in said and "dropped  1 region of the class 'Region': left out" in said
    assert "note     annotated: blast; wbc unknown in these images" in said
    (document,) = [json.loads(file.read_text()) for file in (tmp_path / "out" / "annotations").glob("*.json")]
    assert [image["annotated"] for image in document["images"]] == [["blast"], ["blast"]]
    record = json.loads((tmp_path / "out" / "convert.json").read_text())
    assert record["options"]["class_map"] == {"Leukocyte": "wbc", "Region": ""}
    assert record["options"]["images"] == "photos"


def test_the_message_is_the_command_to_paste(tmp_path: Path) -> None:
    labelimg(tmp_path / "labels")
    said = run_in_process(tmp_path, "split", "labels", "out.csv", "--images", "photos", code=2)
    assert "--map Leukocyte=wbc --map Region=" in said
    said = run_in_process(tmp_path, "split", "labels", "out.csv", *OPTIONS)
    assert "wrote" in said


@pytest.mark.parametrize("words", [("audit", "labels", "--no-overlaps"), ("crops", "labels", "cut", "--mpp", "0.1")])
def test_other_commands_read_the_same(tmp_path: Path, words: tuple[str, ...]) -> None:
    labelimg(tmp_path / "labels")
    assert run_in_process(tmp_path, *words, *OPTIONS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--map", "x"), "--map: expected NAME=CLASS, got x"),
        (
            ("--map", "x=cell"),
            "expected one of blast, wbc, rbc, platelet, or nothing to leave the class out, got 'cell'",
        ),
        (("--annotated", "cells"), "expected some of blast, wbc, rbc, platelet, got 'cells'"),
        (("--images", "nowhere"), "first missing"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    labelimg(tmp_path / "labels")
    given = [*OPTIONS, *options] if options[0] != "--images" else [*options, *OPTIONS[2:]]
    said = run_in_process(tmp_path, "convert", "labels", "out", *given, code=2)
    assert words in said and said.count("\n") == 1


def test_train_needs_data_for_them(tmp_path: Path) -> None:
    said = run_in_process(tmp_path, "train", "config.yaml", "--map", "x=wbc", code=2)
    assert "Expected --data with --from, --images, --map or --annotated" in said


def test_annotated_from_python(tmp_path: Path) -> None:
    images = labelimg(tmp_path / "labels")
    how = {"images": images, "class_map": {"Leukocyte": "wbc", "Region": ""}}
    dataset = read_dataset(tmp_path / "labels", annotated=("wbc", "blast"), **how)
    assert {sample.annotated for sample in dataset} == {("blast", "wbc")}
    assert not any("unknown" in note for note in dataset.notes)
    with pytest.raises(ConfigError, match="annotated: expected some of blast"):
        read_dataset(tmp_path / "labels", annotated=("leukocyte",), **how)


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "labels", "out"),
        ("split", "labels", "out.csv"),
        ("audit", "labels", "--no-overlaps"),
        ("crops", "labels", "cut", "--mpp", "0.1"),
        ("evaluate", "--data", "labels", "--split", "all", "--detections", "none.json", "--out", "report"),
        ("review", "--data", "labels", "--detections", "none.json", "--html", "page"),
    ],
)
def test_a_mapped_name_that_no_file_has_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    labelimg(tmp_path / "labels")
    (tmp_path / "none.json").write_text("[]")
    said = run_in_process(tmp_path, *words, *OPTIONS, "--map", "Leucocyte=rbc")
    assert said.count("--map: no class 'Leucocyte' in these files. They have 'Leukocyte', 'Region', 'Blast'") == 1


def test_starting_config_names_it_too(tmp_path: Path) -> None:
    labelimg(tmp_path / "labels")
    run_in_process(tmp_path, "init", "labels", "--out", "a.yaml", *OPTIONS, "--map", "Leucocyte=rbc")
    assert "# note: --map: no class 'Leucocyte' in these files" in (tmp_path / "a.yaml").read_text()
