"""Configurations describe a run completely; an error in one is reported in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from blastdet.core.errors import ConfigError
from blastdet.training.config import ClassifyConfig, TrainConfig
from blastdet.training.config_file import expand, read_any, read_config, to_yaml, with_current_names

REPO = Path(__file__).parents[2]
MINIMAL = {"name": "x", "mpp": 0.2, "data": [{"path": "here"}]}


def _write(folder, content):
    path = folder / "c.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "path",
    sorted(p for p in (REPO / "configs").rglob("*.yaml") if p.parent.name != "models"),
    ids=lambda path: path.name,
)
def test_shipped_configurations_are_valid_and_survive_a_round_trip(path, tmp_path):
    config = read_any(path)
    assert read_any(_write(tmp_path, to_yaml(config))) == config


def test_overrides_reach_inside(tmp_path):
    words = ["epochs=3", "augment.mosaic=0", "data.0.sampling_weight=2.5", "leave_out=[a, b]"]
    config = read_config(_write(tmp_path, MINIMAL), words)
    assert (config.epochs, config.augment.mosaic, config.data[0].sampling_weight) == (3, 0, 2.5)
    assert config.leave_out == ("a", "b")


def test_datasets_given_replace_those_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_any(_write(tmp_path, MINIMAL), ["data.1.sampling_weight=2"], [Path("mine"), Path("more")])
    assert [(item.path, item.split, item.sampling_weight) for item in config.data] == [
        (str(tmp_path / "mine"), "auto", 1),
        (str(tmp_path / "more"), "auto", 2),
    ]
    assert config.name == f"{MINIMAL['name']}-mine"
    crops = read_any(REPO / "configs/blasts/small.yaml", (), [Path("crops")])
    assert [item.path for item in crops.data] == [str(tmp_path / "crops")]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"epochs": 0}, "epochs: Input should be greater than or equal to 1"),
        ({"epochs": 10**9}, "epochs: Input should be less than or equal to 100000 .got 1000000000."),
        ({"batch": 10**9}, "batch: Input should be less than or equal to 4096"),
        ({"batch": 4096, "crop": 4096}, "expected batch x crop x crop of at most 268,435,456 pixels, got 4096 x"),
        ({"tile_wh": [10**9, 640]}, "tile_wh: expected 96 to 8192 each"),
        ({"classes": ["wbc", "dog"]}, "classes: expected some of .*, got .'dog'."),
        ({"crop": 100}, "crop: expected a multiple of 32, got 100"),
        ({"flavour": 1}, "flavour: unknown entry"),
        ({"data": []}, "data: Tuple should have at least 1 item"),
        ({"mpp": -0.1}, "mpp: Input should be greater than 0"),
        ({"augment": {"mosaic": 2}}, "augment.mosaic: Input should be less"),
    ],
)
def test_an_error_names_the_entry(tmp_path, change, line):
    with pytest.raises(ConfigError, match=line) as caught:
        read_config(_write(tmp_path, MINIMAL | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[1, 2]", "expected a mapping of settings, got list"),
        ("a: [", "not YAML"),
        ("", "expected a mapping of settings, got NoneType"),
    ],
)
def test_a_file_that_is_not_a_configuration(tmp_path, content, line):
    with pytest.raises(ConfigError, match=line) as caught:
        read_config(_write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("words", ["epochs", "data.7.sampling_weight=1", "name.x=1", "data.x=1"])
def test_an_override_that_fits_nothing(tmp_path, words):
    with pytest.raises(ConfigError, match=f"--set {words}"):
        read_config(_write(tmp_path, MINIMAL), [words])


OLD = {"augment": {"paste": 0.5, "pile": 0.25, "squeeze": 0.2}, "data": [{"path": "a", "share": 2}]}


def test_entries_of_version_0_1_are_read_with_a_note(tmp_path):
    notes = []
    config = read_any(_write(tmp_path, MINIMAL | OLD), ["augment.paste=0.1", "data.0.share=3"], note=notes.append)
    assert (config.augment.copy_paste, config.augment.rbc_overlap, config.augment.aspect_jitter) == (0.1, 0.25, 0.2)
    assert config.data[0].sampling_weight == 3
    assert notes == [
        "note: augment.paste is now augment.copy_paste",
        "note: augment.pile is now augment.rbc_overlap",
        "note: augment.squeeze is now augment.aspect_jitter",
        "note: share is now sampling_weight",
    ]
    notes.clear()
    crops = {"task": "classify", "name": "c", "label": "blast", "classes": ["blast", "wbc"], "val_share": 0.3}
    config = read_any(_write(tmp_path, crops | {"data": OLD["data"]}), note=notes.append)
    assert (config.val_fraction, config.data[0].sampling_weight) == (0.3, 2) and len(notes) == 2


def test_the_cards_of_shipped_models_have_configurations_of_today_once_renamed():
    for path in sorted((REPO / "weights").glob("*/card.json")):
        content = with_current_names(json.loads(path.read_text())["training"]["config"])
        kind = ClassifyConfig if content.get("task") == "classify" else TrainConfig
        assert kind.model_validate(content).name == content["name"]


def test_paths_are_expanded_without_a_change_to_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("BLASTDET_DATA", raising=False)
    before = dict(os.environ)
    expand("${BLASTDET_DATA}/bccd", tmp_path)
    assert dict(os.environ) == before


def test_folds_need_a_blast_probability():
    crops = {"task": "classify", "name": "c", "label": "cell_type", "classes": ["a", "b"], "data": [{"path": "x"}]}
    for change in ({"folds": 3}, {"folds": 3, "fold": [0, 3]}):
        with pytest.raises(ValueError, match="folds"):
            ClassifyConfig.model_validate(crops | change)


def test_classes_come_in_canonical_order():
    assert TrainConfig.model_validate(MINIMAL | {"classes": ["rbc", "wbc"]}).classes == ("wbc", "rbc")


def test_paths_expand_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("BLASTDET_DATA", "/somewhere")
    assert expand("${BLASTDET_DATA}/bccd", tmp_path) == Path("/somewhere/bccd")
    assert expand("datasets/x.json", tmp_path) == tmp_path / "datasets/x.json"
    with pytest.raises(ConfigError, match="environment variable not set"):
        expand("${NOT_SET_ANYWHERE}/x", tmp_path)


def test_a_configuration_extends_another_over_two_steps(tmp_path):
    (tmp_path / "top.yaml").write_text(yaml.safe_dump(MINIMAL))
    (tmp_path / "mid.yaml").write_text("extends: top.yaml\nepochs: 7\n")
    (tmp_path / "low.yaml").write_text("extends: mid.yaml\nname: low\n")
    config = read_config(tmp_path / "low.yaml", ["seed=3"])
    assert (config.name, config.epochs, config.seed) == ("low", 7, 3)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("extends: self.yaml", "self.yaml extends this file in turn"),
        ("extends: gone.yaml", "extended by"),
        ("extends: [a.yaml]", "expected the name of one file beside it"),
        ("extends: null", "expected the name of one file beside it"),
        ('extends: "a\\0b"', "expected the name of one file beside it"),
    ],
)
def test_what_cannot_be_extended_is_one_line(tmp_path, text, line):
    (tmp_path / "self.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_any(tmp_path / "self.yaml")
    assert line in str(caught.value) and "self.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "extra",
    [
        "leave_out: &a [*a]\n",
        "augment: &a {mosaic: *a}\n",
        "epochs: 1" + "0" * 5000 + "\n",
        "x: &a0 [1]\n" + "".join(f"x{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
    ],
)
def test_a_hostile_file_is_one_line(tmp_path, extra):
    path = tmp_path / "c.yaml"
    path.write_text("name: x\nmpp: 0.1\ndata: [{path: ds}]\n" + extra)
    with pytest.raises(ConfigError, match="not YAML"):
        read_any(path)


@pytest.mark.parametrize("override", ["name=&a [*a]", "augment.mosaic=[[["])
def test_a_hostile_override_is_one_line(tmp_path, override):
    path = tmp_path / "c.yaml"
    path.write_text("name: x\nmpp: 0.1\ndata: [{path: ds}]\n")
    with pytest.raises(ConfigError) as error:
        read_any(path, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("data: [{path: ds, share: 2, sampling_weight: 3}]", "share: expected sampling_weight, its name of today"),
        ("data: [{path: ds}]\naugment: {paste: 0, copy_paste: 1}", r"augment\.paste: expected augment\.copy_paste"),
    ],
)
def test_an_entry_under_both_names_is_refused(tmp_path, extra, words):
    path = tmp_path / "c.yaml"
    path.write_text(f"name: x\nmpp: 0.1\n{extra}\n")
    with pytest.raises(ConfigError, match=words):
        read_any(path)


@pytest.mark.parametrize("name", [".", "..", " ", "a/b", "a\\b", "a\x1b[2J", "a\nb", "x" * 201])
def test_a_run_has_a_folder_of_its_own(name):
    with pytest.raises(ConfigError, match=r"name: ") as caught:
        read_any(REPO / "configs" / "bccd-yolov5n.yaml", [f"name={json.dumps(name)}"])
    assert "\x1b" not in str(caught.value)
