"""The Python API: whatever form an image and a scale take, the result is the same; what a result turns into agrees."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blastdet
from blastdet.core.errors import BlastdetError, ConfigError, DependencyError, ImageError, ScaleError, WeightsError
from blastdet.imaging.io import open_image, open_smear, read_image
from blastdet.inference.model import Options

WEIGHTS = Path(__file__).parents[2] / "weights"
SMEAR = Path(__file__).parents[2] / "datasets/demo/smear.jpg"


@pytest.fixture(scope="module")
def model():
    return blastdet.load("default", device="cpu")


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """A corner of the demo smear, as a lossless file."""
    path = tmp_path_factory.mktemp("api") / "field.png"
    Image.fromarray(read_image(SMEAR)[:480, :640]).save(path)
    return path


@pytest.fixture(scope="module")
def result(model, field):
    return model(field, mpp=0.1)


def _same(one, other):
    np.testing.assert_array_equal(one.detections.boxes_xyxy, other.detections.boxes_xyxy)
    np.testing.assert_array_equal(one.detections.score, other.detections.score)
    assert one.counts == other.counts and one.mpp == other.mpp


def test_weights_that_change_on_disk_are_read_again(tmp_path):
    shutil.copytree(WEIGHTS / "default", tmp_path / "mine")
    shutil.copytree(WEIGHTS / "differential", tmp_path / "differential")
    first = blastdet.load(tmp_path / "mine", device="cpu")
    assert blastdet.load(tmp_path / "mine", device="cpu") is first
    for changed in ("mine", "differential"):  # either stage
        (file,) = (tmp_path / changed).glob("*.onnx")
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(WeightsError, match="sha256"):
            blastdet.load(tmp_path / "mine", device="cpu")
        file.write_bytes(content)
        os.utime(file)
        blastdet.load(tmp_path / "mine", device="cpu")


def test_load_gives_the_same_object_again(model):
    assert blastdet.load("default", device="cpu") is model


@pytest.mark.parametrize("mpp", [0.1, "0.1", "0.1,0.1", (0.1, 0.1), [0.1, 0.1], np.float32(0.1), np.array([0.1, 0.1])])
def test_every_form_of_a_scale_is_used(model, field, result, mpp):
    found = model(field, mpp=mpp)
    assert found.mpp == pytest.approx((0.1, 0.1)) and found.scale.origin == "given"
    assert found.parameters["mpp"] == pytest.approx((0.1, 0.1))
    assert found.counts == result.counts


def test_one_number_for_each_axis(model, field):
    assert model(field, mpp=(0.1, 0.12)).mpp == (0.1, 0.12)


@pytest.mark.parametrize(
    "mpp", ["atuo", "", 0, -0.1, float("nan"), "nan", [0.1, 0.1, 0.1], True, {}, object(), "0.1;0.2"]
)
def test_anything_else_is_no_scale(model, field, mpp):
    with pytest.raises(ScaleError, match="mpp: expected"):
        model(field, mpp=mpp)
    with pytest.raises(ScaleError):
        blastdet.detect(field, mpp=mpp, device="cpu")


def test_path_string_array_and_pil_image_give_equal_results(model, field, result):
    rgb = read_image(field)
    for image in (str(field), rgb, np.ascontiguousarray(rgb), Image.open(field), Image.fromarray(rgb)):
        _same(model(image, mpp=0.1), result)
    _same(blastdet.detect(field, mpp=0.1, device="cpu"), result)


def test_a_list_gives_a_list_in_its_order(model, field, result):
    found = model([field, read_image(field)[:200, :300]], mpp=0.1)
    assert [one.size_wh for one in found] == [(640, 480), (300, 200)]
    _same(found[0], result)
    assert model([], mpp=0.1) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        5,
        None,
    ],
    ids=lambda image: str(getattr(image, "shape", image)),
)
def test_what_is_no_rgb_image_is_refused(model, image):
    with pytest.raises(ImageError, match=r"expected .*uint8 array .*, got"):
        model(image, mpp=0.1)


def test_a_turned_and_a_transparent_pil_image_are_read_as_their_files(model, tmp_path):
    rgba = np.dstack([read_image(SMEAR)[:200, :300], np.full((200, 300), 255, np.uint8)])
    rgba[:50, :50, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(read_image(SMEAR)[:200, :300]).save(tmp_path / "turned.png", exif=exif)
    for path in sorted(tmp_path.iterdir()):
        by_path, by_image = model(path, mpp=0.1), model(Image.open(path), mpp=0.1)
        assert by_path.size_wh == by_image.size_wh
        _same(by_path, by_image)


def test_an_array_is_read_as_its_file(field):
    rgb = read_image(field)
    with open_smear(field) as file, open_image(rgb) as array:
        for box, scale in (((0, 0, 640, 480), (0.37, 0.41)), ((-20.5, 30, 200, 700), (1.6, 1.0))):
            np.testing.assert_array_equal(array.read(box, scale), file.read(box, scale))


def test_what_a_result_turns_into_agrees(result, tmp_path):
    n = len(result.detections)
    assert len(result.to_pandas()) == len(result.to_geojson()["features"]) == len(result.to_dict()["cells"]) == n
    assert sum(result.counts.values()) == n == len(result.kinds)
    assert len(result.to_coco()["annotations"]) == len(result.candidates)
    assert result.to_pandas()["x1"].tolist() == pytest.approx(result.detections.boxes_xyxy[:, 0].tolist())
    numbers = result.to_pandas()[["x1", "y2", "score", "width_um", "height_um", "blast_probability", "unsure"]]
    assert all(dtype.kind in "fi" for dtype in numbers.dtypes)
    assert len(result.to_supervision()) == n
    files = result.save(tmp_path, ["json", "csv", "geojson", "overlay"])
    assert json.loads(files[0].read_text("utf-8")) == json.loads(json.dumps(result.to_dict()))
    with pytest.raises(BlastdetError, match="exists already"):
        result.save(tmp_path)
    assert result.save(tmp_path, ["json"], overwrite=True)[0].is_file()
    with pytest.raises(ConfigError, match="expected some of json"):
        result.save(tmp_path, ["xml"])


@pytest.mark.filterwarnings("ignore")  # FiftyOne's own imports warn
def test_a_result_becomes_fiftyone_detections(result):
    assert len(result.to_fiftyone().detections) == len(result.detections)


def test_the_table_counts_as_the_result_does(result):
    counted = result.to_pandas()["counted_as"].value_counts().to_dict()
    assert counted == {kind: number for kind, number in result.counts.items() if number}


def test_crops_by_kind(result):
    white = [kind for kind in result.kinds if kind not in ("rbc", "platelet")]
    assert len(result.crops()) == len(white) > 0
    for kind in ("blast", "wbc", "unsure", "rbc"):
        crops = result.crops(kind)
        assert len(crops) == result.counts[kind]
        assert all(crop.dtype == np.uint8 and crop.shape[0] == crop.shape[1] for crop in crops)
    with pytest.raises(ConfigError, match="got 'lymphocyt'"):
        result.crops("lymphocyt")


def test_a_result_shows_itself_in_a_notebook(model, result):
    page = result._repr_html_()
    assert page.count("data:image/jpeg;base64,") == 1 and "http" not in page
    for word in ("per mm²", "95 % CI", "Research Use Only", "0.1 µm/px (given)"):
        assert word in page
    assert "<script" not in blastdet.detect(read_image(SMEAR)[:300, :300], mpp=0.1, device="cpu")._repr_html_()
    assert repr(result).startswith("<Result field.png: 640 x 480 px")


def test_names_are_escaped_in_html(model, tmp_path):
    path = tmp_path / "<b>&.png"
    Image.fromarray(read_image(SMEAR)[:300, :300]).save(path)
    page = model(path, mpp=0.1)._repr_html_()
    assert "<b>&.png" not in page and "&lt;b&gt;&amp;.png" in page


def test_a_blank_image_gives_an_empty_result(model):
    result = model(np.full((300, 400, 3), 240, np.uint8), mpp=0.2)
    assert sum(result.counts.values()) == 0 and result.crops() == []
    assert result.summary()[0] == "No white cells detected."
    assert len(result.to_pandas()) == 0 and "<img" in result._repr_html_()


def test_options_are_parsed_once():
    assert Options(mpp="0.1,0.2").mpp == (0.1, 0.2) and Options("auto").mpp == "auto" and Options().mpp is None


def test_a_missing_package_says_how_to_install_it():
    from blastdet.core.packages import needed

    with pytest.raises(DependencyError, match=r"pip install 'blastdet\[notebook\]'"):
        needed("no_such_module", "notebook")


@pytest.mark.slow
def test_the_public_names_exist_and_are_documented():
    for name in blastdet.__all__:
        if name != "__version__":
            assert getattr(blastdet, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        blastdet.nothing  # noqa: B018


def test_pillow_images_that_cannot_be_decoded_are_image_errors(model, field, tmp_path):
    content = field.read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    closed = Image.open(field)
    closed.close()
    with Image.open(tmp_path / "half.png") as half:
        for image in (half, closed):
            with pytest.raises(ImageError, match="cannot be decoded"):
                model(image, mpp=0.1)


@pytest.mark.parametrize("weights", [5, None, ["default"], "x" * 5000])
def test_weights_that_are_no_name_are_one_line(weights):
    with pytest.raises(BlastdetError) as error:
        blastdet.load(weights)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("device", [None, [], 0])
def test_a_device_that_is_no_text_is_refused(device):
    with pytest.raises(ConfigError, match="device: expected auto"):
        blastdet.load("default", device=device)


def test_a_score_of_numpy_can_be_saved(model, field, tmp_path):
    model(field, mpp=0.1, min_score=np.float32(0.25)).save(tmp_path, "json")
    assert json.loads((tmp_path / "field.json").read_text())["parameters"]["min_score"] == 0.25


def test_an_image_that_changed_is_not_shown_with_old_boxes(model, field, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(field.read_bytes())
    found = model(path, mpp=0.1)
    Image.fromarray(read_image(field)[::-1]).save(path)
    for use in (found.plot, found.crops, lambda: found.save(tmp_path / "out")):
        with pytest.raises(ImageError, match="changed since the cells were detected"):
            use()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mpp", [10**400, np.zeros((10, 10))])
def test_an_odd_scale_is_one_line(mpp):
    with pytest.raises(ScaleError) as error:
        Options(mpp)
    assert "\n" not in str(error.value)
