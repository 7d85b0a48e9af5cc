"""`blastdet.read_dataset`, `convert`, `split` and `write_dataset` as a user of the Python API calls them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from made import same_smears, voc, voc_xml

import blastdet
from blastdet import ConvertOptions
from blastdet.core.errors import ConfigError, FormatError, ScaleError


@pytest.fixture
def bccd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A look-alike of BCCD that is installed as ``bccd``."""
    files = {f"BloodImage_{i}": voc_xml([("WBC", 1, 1, 30, 30)]) for i in range(4)}
    sets = {"train": ["BloodImage_0", "BloodImage_1"], "test": ["BloodImage_2", "BloodImage_3"]}
    monkeypatch.setenv("BLASTDET_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return voc(tmp_path / "data/bccd", files, sets)


def test_a_dataset_is_read_by_name_path_or_text(bccd: Path) -> None:
    for name_or_path in ("bccd", bccd, str(bccd)):
        data = blastdet.read_dataset(name_or_path)
        assert len(data) == 4 and data.root == bccd


def test_a_path_takes_precedence_over_a_name(bccd: Path, tmp_path: Path) -> None:
    shutil.copytree(bccd, tmp_path / "bccd")
    assert blastdet.read_dataset("bccd").root == Path("bccd")


def test_a_split_is_selected_and_an_unknown_one_lists_what_exists(bccd: Path) -> None:
    assert [sample.path.stem for sample in blastdet.read_dataset("bccd", "test")] == ["BloodImage_2", "BloodImage_3"]
    assert len(blastdet.read_dataset("bccd", "all")) == len(blastdet.read_dataset("bccd", None)) == 4
    for split in ("val", "tset"):
        with pytest.raises(ConfigError, match=f"no image in split '{split}'. Splits in this dataset: test, train"):
            blastdet.read_dataset("bccd", split)


def test_a_dataset_that_is_not_installed_says_how_to_get_it(bccd: Path) -> None:
    with pytest.raises(FormatError, match=r"data/pbc_wbc: no such .*Get it with: blastdet data get pbc_wbc\. Or set"):
        blastdet.read_dataset("pbc_wbc")
    with pytest.raises(
        FormatError,
        match=r"^nonsense: no such .*, and no dataset of that name. List .*: blastdet data list$",
    ):
        blastdet.read_dataset("nonsense")


@pytest.mark.parametrize(("given", "mpp"), [(0.2, (0.2, 0.2)), ((0.2, 0.3), (0.2, 0.3)), (None, (7.5 / 105,) * 2)])
def test_mpp_replaces_the_scale_of_the_dataset(bccd: Path, given: object, mpp: tuple[float, float]) -> None:
    assert all(sample.mpp == pytest.approx(mpp) for sample in blastdet.read_dataset("bccd", mpp=given))


def test_mpp_also_replaces_a_scale_stored_in_coco(bccd: Path, tmp_path: Path) -> None:
    blastdet.convert("bccd", tmp_path / "coco")
    assert {sample.mpp for sample in blastdet.read_dataset(tmp_path / "coco", mpp=0.5)} == {(0.5, 0.5)}


@pytest.mark.parametrize("mpp", [0, -1, 1000, "0.1", float("nan"), (1, 2, 3)])
def test_an_impossible_mpp_is_refused(bccd: Path, mpp: object) -> None:
    with pytest.raises(ScaleError, match="expected"):
        blastdet.read_dataset("bccd", mpp=mpp)


def test_class_map_and_unknown_options(bccd: Path) -> None:
    assert blastdet.read_dataset("bccd").classes == ("wbc",)
    assert blastdet.read_dataset("bccd", class_map={"WBC": "blast"}).classes == ("blast",)
    with pytest.raises(ConfigError, match="got the option flavour"):
        blastdet.read_dataset("bccd", flavour=1)


def test_convert_split_and_write_round_trip(bccd: Path, tmp_path: Path) -> None:
    data = blastdet.split("bccd", "grouped", seed=2)
    assert {sample.split for sample in data} == {"train", "val", "test"}
    written = blastdet.write_dataset(data, tmp_path / "out", ["coco", "yolo"])
    assert written.root == tmp_path / "out"
    for format_ in ("coco", "yolo"):
        same_smears(written, blastdet.read_dataset(tmp_path / "out", format=format_), tolerance=1e-3)
    half = ConvertOptions({"format": "coco"}, resample=7.5 / 210)
    converted = blastdet.convert(tmp_path / "out", tmp_path / "half", to="yolo", options=half)
    assert {sample.size_wh for sample in converted} == {(128, 96)}
    record = json.loads((tmp_path / "half/convert.json").read_text())
    assert record["options"]["resample"] == 7.5 / 210 and record["options"]["mpp"] is None
    assert str(tmp_path) not in (tmp_path / "half/convert.json").read_text()


def test_options_of_reading_are_refused_for_a_dataset_in_memory(bccd: Path, tmp_path: Path) -> None:
    data = blastdet.read_dataset("bccd")
    for name, value in {"mpp": 0.1, "format": "voc", "boxes": "fixed", "corrections": "c.jsonl"}.items():
        options = ConvertOptions(boxes=value) if name == "boxes" else ConvertOptions({name: value})
        with pytest.raises(ConfigError, match=f"{name}: expected None for a Dataset"):
            blastdet.convert(data, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("resample", [0, -1, float("nan"), 1000])
def test_an_impossible_resolution_is_refused(resample: float) -> None:
    with pytest.raises(ScaleError, match="resample: expected"):
        ConvertOptions(resample=resample)


def test_folders_of_a_reader_may_be_strings(tmp_path: Path, bccd: Path) -> None:
    data = blastdet.write_dataset(blastdet.read_dataset("bccd"), tmp_path / "coco")
    file = next((tmp_path / "coco/annotations").glob("*.json"))
    assert len(blastdet.read_dataset(file, images=str(data.root)))


def test_nothing_is_written_over_the_dataset_or_an_existing_folder(bccd: Path, tmp_path: Path) -> None:
    data = blastdet.read_dataset("bccd")
    with pytest.raises(FormatError, match="contains the source"):
        blastdet.write_dataset(data, bccd)
    blastdet.write_dataset(data, tmp_path / "out")
    with pytest.raises(FormatError, match="not empty"):
        blastdet.write_dataset(data, tmp_path / "out")
    blastdet.write_dataset(data, tmp_path / "out", "csv", overwrite=True)
    assert (tmp_path / "out/cells.csv").is_file() and not (tmp_path / "out/annotations").exists()


@pytest.mark.parametrize("name", ["read_dataset", "convert", "split", "write_dataset"])
def test_every_function_documents_its_parameters_errors_and_an_example(name: str) -> None:
    function = getattr(blastdet, name)
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert re.search(rf"^ +{section}$", function.__doc__, re.MULTILINE), section
    missing = [p for p in function.__annotations__ if p != "return" and not re.search(rf"\b{p}\b", function.__doc__)]
    assert not missing
