"""A configuration describes a run completely; what is wrong with it is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from blastdet.core.errors import ConfigError
from blastdet.training.config import TrainConfig, expand, read_any, read_config, to_yaml

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
    words = ["epochs=3", "augment.mosaic=0", "data.0.share=2.5", "leave_out=[a, b]"]
    config = read_config(_write(tmp_path, MINIMAL), words)
    assert (config.epochs, config.augment.mosaic, config.data[0].share) == (3, 0, 2.5)
    assert config.leave_out == ("a", "b")


def test_data_of_ones_own_take_the_place_of_what_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_any(_write(tmp_path, MINIMAL), ["data.1.share=2"], [Path("mine"), Path("more")])
    assert [(item.path, item.split, item.share) for item in config.data] == [
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
        ({"classes": ["wbc", "dog"]}, "classes: Value error, .'dog'. found"),
        ({"crop": 100}, "crop: Value error, 100 found, a multiple of 32 expected"),
        ({"flavour": 1}, "flavour: no such entry"),
        ({"data": []}, "data: Tuple should have at least 1 item"),
        ({"mpp": -0.1}, "mpp: Input should be greater than 0"),
        ({"augment": {"mosaic": 2}}, "augment.mosaic: Input should be less"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, change, line):
    with pytest.raises(ConfigError, match=line) as caught:
        read_config(_write(tmp_path, MINIMAL | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [("[1, 2]", "list found, a mapping"), ("a: [", "not YAML"), ("", "NoneType found, a mapping")],
)
def test_a_file_that_is_no_configuration(tmp_path, content, line):
    with pytest.raises(ConfigError, match=line) as caught:
        read_config(_write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("words", ["epochs", "data.7.share=1", "name.x=1", "data.x=1"])
def test_an_override_that_fits_nothing(tmp_path, words):
    with pytest.raises(ConfigError, match=f"--set {words}"):
        read_config(_write(tmp_path, MINIMAL), [words])


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
        ("extends: gone.yaml", "which"),
        ("extends: [a.yaml]", "the name of one file beside it expected"),
        ("extends: null", "the name of one file beside it expected"),
        ('extends: "a\\0b"', "the name of one file beside it expected"),
    ],
)
def test_what_cannot_be_extended_is_one_line(tmp_path, text, line):
    (tmp_path / "self.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_any(tmp_path / "self.yaml")
    assert line in str(caught.value) and "self.yaml" in str(caught.value) and "\n" not in str(caught.value)
