"""Classifiers of crops: from configuration to weights folder, for our own network and torchvision's."""

from __future__ import annotations

import csv
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made import cell_image, kill_after_an_epoch, run_in_process
from PIL import Image

from blastdet.core.errors import ConfigError, FormatError, ScaleError, WeightsError
from blastdet.core.model_card import Calibration, read_card, write_card
from blastdet.datasets.cropping.crop_table import CropRow, read_table
from blastdet.models.classifier import framed, load_classifier, prepare
from blastdet.training.classification import cnn
from blastdet.training.classification.crop_samples import CropEpoch, folds, label_of, load_crops, split, without_fold
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import read_any, read_config
from blastdet.training.detection.faster_rcnn import FasterRcnn
from blastdet.training.loop import engine
from blastdet.training.loop.initial_weights import read_tensors, take_weights


@pytest.fixture
def folder(crops_folder):
    return crops_folder


@pytest.fixture
def run(crops_run):
    return crops_run


def test_it_learns_and_its_card_says_how_to_feed_it(run, folder):
    card = read_card(run / "weights")
    assert (card.task, card.classes, card.mpp, card.input.low_pass) == ("classify", ("blast", "wbc"), 0.5, 0.7)
    assert {metric.metric: metric.value for metric in card.metrics}["accuracy"] == 1.0
    assert (run / "samples.png").is_file() and (run / "metrics.csv").is_file()
    model, rng = load_classifier(run / "weights"), np.random.default_rng(1)
    kinds = ["blast", "wbc"] * 5
    found = model([cell_image(kind, rng, 60) for kind in kinds], [1 / 3] * 10)
    np.testing.assert_allclose(found.probability.sum(axis=1), 1, atol=1e-5)
    assert [card.classes[i] for i in found.probability.argmax(axis=1)] == kinds
    assert (found.distance > 0).all()


def test_its_card_has_a_rejection_rule(run):
    """Well separated cells: all blasts are called, no other cell is, and stripes are far from the training data."""
    card, model, rng = read_card(run / "weights"), load_classifier(run / "weights"), np.random.default_rng(3)
    assert card.unsure is not None and card.unsure.low <= card.unsure.high
    kinds = ["blast", "wbc"] * 20
    blast = model([cell_image(kind, rng, 60) for kind in kinds], [1 / 3] * 40).probability[:, 0]
    assert ((blast >= card.thresholds["blast"].value) == [kind == "blast" for kind in kinds]).mean() > 0.9
    stripes = np.tile(np.array([[0, 255]], np.uint8).repeat(6, axis=1), (60, 5))[..., None].repeat(3, axis=2)
    strange = model([stripes, 255 - stripes], [0.5, 0.5]).distance
    assert (strange > card.unsure.distance).all()
    assert (run / "reliability.png").is_file()
    assert {"Brier score", "expected calibration error of blast"} <= {metric.metric for metric in card.metrics}


def test_a_card_may_calibrate_once_more(run, tmp_path):
    weights = shutil.copytree(run / "weights", tmp_path / "weights")
    rng = np.random.default_rng(4)
    crops = [cell_image(kind, rng, 60) for kind in ("blast", "wbc") * 5]
    before = load_classifier(weights)(crops, [1 / 3] * 10)
    again = Calibration(slope=0.5, offset=-1.0, chosen_on="a test")
    write_card(read_card(weights).model_copy(update={"calibration": again}), weights)
    after = load_classifier(weights)(crops, [1 / 3] * 10)
    np.testing.assert_allclose(after.probability[:, 0], again.apply(before.probability[:, 0]), atol=1e-6)
    np.testing.assert_allclose(after.probability.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(after.distance, before.distance)


def test_the_same_crop_at_another_resolution_has_the_same_result(run):
    """A PBC crop downsampled to the resolution of the ALL fields."""
    model, rng = load_classifier(run / "weights"), np.random.default_rng(2)
    fine = [cell_image(kind, rng, 200) for kind in ("blast", "wbc") * 10]
    coarse = [np.asarray(Image.fromarray(rgb).resize((40, 40), Image.Resampling.BOX)) for rgb in fine]
    moved = np.abs(model(fine, [0.1] * 20).probability - model(coarse, [0.5] * 20).probability)[:, 0]
    assert np.median(moved) < 0.1


def test_crops_of_one_pixel_no_crops_and_large_crops(run):
    model = load_classifier(run / "weights")
    assert [part.shape for part in model([], [])] == [(0, 2), (0,)]
    odd = [np.full((n, n, 3), 200, np.uint8) for n in (1, 2, 500)]
    assert all(np.isfinite(part).all() for part in model(odd, [0.5, 0.1, 0.5]))


def test_killed_and_resumed_equals_uninterrupted(run, folder):
    kill_after_an_epoch(folder, "again", "made.yaml")
    run_in_process(folder, "train", "made.yaml", "--out", "again", "--resume")
    a, b = (torch.load(folder / name / "last.pt", weights_only=True)["ema"] for name in ("run", "again"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_detector_is_not_a_classifier_and_vice_versa(run, folder):
    with pytest.raises(WeightsError, match="expected a model with task classify, got task detect"):
        load_classifier("default")
    (folder / "smear.png").write_bytes((folder / "made/000.png").read_bytes())
    text = run_in_process(folder, "detect", "smear.png", "--weights", "run/weights", "--mpp", "0.2", code=2)
    assert "expected a model with task detect, got task classify" in text


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("classes=[blast,erythroblast]", "no crop of ['erythroblast'] to train on"),
        ("model=nothing", "a classifier of torchvision, or timm/NAME, got nothing"),
        ("model=fasterrcnn_resnet50_fpn", "a classifier of torchvision, or timm/NAME, got fasterrcnn_resnet50_fpn"),
        ("data.0.path=nowhere", "nowhere"),
        ("classes=[blast,blast]", "listed twice"),
        ("side=50", "side"),
        ("model=squeezenet1_1", "expected a network with a linear layer at its end"),
        ("model=vit_b_16", "side: vit_b_16 does not accept 64 pixels"),
        ("fold=[50,1000]", "no cluster of crops is in that fold"),
        ("data=[{path: made},{path: made}]", "got 2 named made"),
        ("data.0.sampling_weight=5e-324", "sampling_weight"),
    ],
)
def test_bad_settings_are_one_line(folder, setting, line):
    text = run_in_process(folder, "train", "made.yaml", "--out", "bad", "--set", setting, code=2)
    assert line in text and "Traceback" not in text
    (folder / "bad/config.yaml").unlink(missing_ok=True)


def test_a_model_of_a_negative_control_says_so_and_is_not_mixed_with_cells(folder):
    shutil.copytree(folder / "made", folder / "probe")
    (folder / "probe/crops.json").write_text('{"probe": "covered"}')
    words = ("train", "made.yaml", "--set", "epochs=1", "--out")
    text = run_in_process(folder, *words, "mixed", "--data", "made", "--data", "probe", code=2)
    assert "expected crops cut with the same settings, got colour 'as it is', cells; colour 'as it is', covered" in text
    text = run_in_process(folder, *words, "probed", "--data", "probe")
    assert text.count("crops.json: probe is now negative_control") == 1
    card = read_card(folder / "probed/weights")
    assert "Trained on a negative control (covered)" in card.limits[-1]
    assert 0 <= {metric.metric: metric.value for metric in card.metrics}["AUROC of blast"] <= 1
    (folder / "probe/crops.json").write_text('{"probe": "none such"}')
    text = run_in_process(folder, *words, "bad", "--data", "probe", code=2)
    assert "expected negative_control covered, elsewhere or none, got 'none such'" in text


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        ("split", "Test", "line 2: expected split train, val or test, got 'Test'"),
        ("mpp", "1e-9", "line 2: mpp: expected µm/px between 0.001 and 100, got 1e-09"),
        ("score", "nan", "line 2: expected finite numbers"),
        ("crop", "001.png", "line 3: 001.png: no such crop"),  # named twice
        ("crop", "x" * 300, "no such crop"),
        ("mpp", "99", "expected a square of at most 500 µm"),
    ],
)
def test_a_faulty_table_is_one_line(folder, column, value, line):
    shutil.copytree(folder / "made", folder / "odd", dirs_exist_ok=True)
    rows = list(csv.DictReader((folder / "made/crops.csv").read_text().splitlines()))
    rows[0][column] = value
    with (folder / "odd/crops.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    config = read_config_of(folder, data=[{"path": "odd"}])
    with pytest.raises((ConfigError, FormatError, ScaleError), match=re.escape(line)):
        load_crops(config, folder)


def read_config_of(folder, **changes):
    """The fixture's configuration, changed."""
    given = yaml.safe_load((folder / "made.yaml").read_text()) | changes
    return ClassifyConfig.model_validate(given)


def test_folders_for_validation_only_must_be_cut_alike(folder):
    shutil.copytree(folder / "made", folder / "held", dirs_exist_ok=True)
    text = (folder / "held/crops.csv").read_text().splitlines()
    column = text[0].split(",").index("split")
    rows = [line.split(",") for line in text]
    lines = [rows[0]] + [[*row[:column], "val", *row[column + 1 :]] for row in rows[1:]]
    (folder / "held/crops.csv").write_text("\n".join(",".join(row) for row in lines) + "\n")
    (folder / "held/crops.json").write_text('{"colour": "canonical"}')
    with pytest.raises(ConfigError, match="cut with the same settings"):
        load_crops(read_config_of(folder, data=[{"path": "made"}, {"path": "held"}]), folder)


def test_few_crops_to_validate_on_are_noted(folder):
    notes = load_crops(read_config_of(folder), folder).notes
    assert any("few crops to validate on (" in line and "blast" in line for line in notes)


@pytest.mark.parametrize(
    ("length", "batch", "sizes"), [(17, 16, [17]), (33, 16, [16, 17]), (32, 16, [16, 16]), (1, 16, [1])]
)
def test_no_sample_is_alone_in_the_last_batch(length, batch, sizes):
    parts = engine._parts(length, batch)
    assert [len(part) for part in parts] == sizes
    assert [i for part in parts for i in part] == list(range(length))


def test_a_training_that_diverges_says_so(folder):
    words = ("--set", "epochs=1", "--set", "lr=1e6", "--set", "warmup_epochs=0", "--set", "ema=0")
    text = run_in_process(folder, "train", "made.yaml", "--out", "wild", *words, code=2)
    assert "Lower lr" in text or "training: loss nan" in text, text


def test_outputs_that_are_not_probabilities_are_one_line(run, tmp_path):
    folder = shutil.copytree(run / "weights", tmp_path / "odd")
    card = read_card(folder)
    write_card(card.model_copy(update={"input": card.input.model_copy(update={"mean": (float("nan"),) * 3})}), folder)
    with pytest.raises(WeightsError, match="mean"):
        load_classifier(folder)
    model = load_classifier(run / "weights")
    model._run = lambda batch, outputs: [np.full((len(batch), 2), np.nan, np.float32), np.ones(len(batch), np.float32)]
    with pytest.raises(WeightsError, match="expected probabilities, got other numbers"):
        model([np.zeros((20, 20, 3), np.uint8)], [0.5])


def _row(**changes) -> CropRow:
    words = dict.fromkeys(("crop", "source", "group", "cluster", "split", "smear_label", "label", "cell_type"), "")
    numbers = dict.fromkeys(("x1", "y1", "x2", "y2", "score"), 0.0)
    return CropRow(**{**words, **numbers, "mpp": 0.5, **changes})


@pytest.mark.parametrize(
    ("row", "label"),
    [
        (_row(label="wbc", smear_label="pro"), "wbc"),  # a label of the cell takes precedence
        (_row(smear_label="pro"), "blast"),
        (_row(smear_label="benign"), "wbc"),
        (_row(label="wbc", cell_type="erythroblast"), "erythroblast"),
        (_row(label="not a cell", smear_label="pro"), "not a cell"),
        (_row(), ""),
    ],
)
def test_the_target_of_a_crop(row, label):
    assert label_of(row, "blast") == label


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("uvwxyz"), st.sampled_from(["", "test"]))))
def test_a_split_keeps_clusters_and_groups_apart_and_test_crops_out(cells):
    rows = [_row(crop=str(i), cluster=c, group=g, split=s) for i, (c, g, s) in enumerate(cells)]
    train, held = split(rows, 0.4, 0)
    assert not {row.cluster for row in train} & {row.cluster for row in held}
    assert not {row.group for row in train} & {row.group for row in held}
    assert all(row.split != "test" for row in (*train, *held))


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("uvwxyz")), min_size=1), st.integers(2, 5))
def test_folds_cover_all_and_share_neither_cluster_nor_group(cells, n):
    rows = [_row(crop=str(i), cluster=c, group=g, smear_label="ab"[c > "d"]) for i, (c, g) in enumerate(cells)]
    dealt = folds(rows, n)
    assert set(dealt) == {row.cluster for row in rows}
    for k in range(n):
        out = [row for row in rows if dealt[row.cluster] == k]
        kept = without_fold(rows, k, n)
        assert {row.cluster for row in kept}.isdisjoint(row.cluster for row in out)
        assert {row.group for row in kept}.isdisjoint(row.group for row in out)


def test_a_published_val_split_is_kept():
    rows = [_row(crop="1", split="val", group="g"), _row(crop="2", split="train"), _row(crop="3", group="g")]
    train, held = split(rows, 0.5, 0)
    assert [row.crop for row in held] == ["1"] and [row.crop for row in train] == ["2"]


def test_classes_are_balanced_and_samples_reproducible(folder):
    config = read_any(folder / "made.yaml", ["epoch_samples=400"])
    assert isinstance(config, ClassifyConfig)
    data = load_crops(config, folder)
    assert {c.name for c in data.train}.isdisjoint(c.name for c in data.val)
    epoch = CropEpoch(data.train[:15], config, 3)
    labels = [epoch[i].label for i in range(400)]
    assert abs(np.mean(labels) - 0.5) < 0.1
    np.testing.assert_array_equal(epoch[7].rgb, CropEpoch(data.train[:15], config, 3)[7].rgb)
    assert epoch.names(range(2)) and all(name.startswith("made/") for name in epoch.names(range(2)))


@given(n=st.integers(1, 90), side=st.sampled_from([32, 64]))
def test_a_frame_keeps_the_middle(n, side):
    rgb = np.zeros((n, n, 3), np.uint8)
    rgb[n // 2, n // 2] = 255
    out = framed(rgb, side, 7)
    assert out.shape == (side, side, 3)
    ys, xs = np.nonzero((out == 255).all(axis=2))
    assert len(ys) == 1 and abs(ys[0] - side // 2) <= 1 and abs(xs[0] - side // 2) <= 1


@given(n=st.integers(1, 60), mpp=st.floats(0.05, 1.5))
def test_a_prepared_crop_has_the_size_of_its_um(n, mpp):
    assert len(prepare(np.zeros((n, n, 3), np.uint8), mpp, 0.5, 0.7)) == max(round(n * mpp / 0.5), 1)


BUILDERS = (
    "alexnet",
    "googlenet",
    "resnet50",
    "vgg16",
    "densenet121",
    "mobilenet_v2",
    "resnet18",
    "shufflenet_v2_x1_0",
    "timm/test_efficientnet",
    "timm/test_vit",
)


@pytest.mark.slow
@pytest.mark.parametrize("model", [*BUILDERS, "small"])
def test_one_training_step_of_every_network(folder, model):
    config = read_any(folder / "made.yaml", [f"model={model}", "batch=2"])
    learner = cnn.CropClassifier(model, 2, config.side)
    state = engine.start(learner, config, torch.device("cpu"))
    epoch = CropEpoch(load_crops(config, folder).train, config, 0)
    before = {name: p.detach().clone() for name, p in learner.module.named_parameters()}
    loss, _ = learner.loss(learner.collate([epoch[0], epoch[1]]), engine.autocast(config, torch.device("cpu")))
    loss.backward()
    state.optimizer.step()
    moved = [name for name, p in learner.module.named_parameters() if not torch.equal(p, before[name])]
    assert torch.isfinite(loss) and len(moved) > len(before) / 2  # on two crops, some units are dead


def test_a_transformer_of_timm_is_one_configuration(folder, tmp_path):
    """From random weights to ONNX that gives the same probabilities as the network."""
    config = read_any(folder / "made.yaml", ["model=timm/test_vit", "side=64", "epochs=1", "workers=0"])
    weights = cnn.train_network(config, folder, tmp_path / "run", "cpu")
    crops = load_crops(config, folder).val[:5]
    given = load_classifier(weights, "cpu")([crop.rgb for crop in crops], [crop.mpp for crop in crops])
    learner = cnn.CropClassifier(config.model, len(config.classes), config.side)
    take_weights(learner.module, tmp_path / "run/best.pt")
    learner.module.eval()
    logits, _ = learner.predict(crops, config)
    np.testing.assert_array_equal(given.probability.argmax(axis=1), logits.argmax(axis=1))


def test_our_own_network_is_small():
    network = cnn.CropClassifier("small", 3, 64).module
    assert sum(p.numel() for p in network.parameters()) < 1_000_000


def test_a_trained_backbone_starts_faster_rcnn(folder, tmp_path):
    """``--init`` of a detector reads the weights of a classifier of crops."""
    learner = cnn.CropClassifier("mobilenet_v3_large", 2, 64)
    torch.save({"ema": learner.module.state_dict()}, tmp_path / "best.pt")
    detector = FasterRcnn("fasterrcnn_mobilenet", 3, 0.3)
    assert "tensors initialised" in take_weights(detector.module, tmp_path / "best.pt")
    name = "features.0.0.weight"
    torch.testing.assert_close(detector.module.backbone.body["0"][0].weight, read_tensors(tmp_path / "best.pt")[name])


def test_tables_written_by_crops_are_read(folder):
    assert len(read_table(folder / "made")) == 40


def test_the_configuration_of_a_classifier_is_not_one_of_a_detector(folder):
    with pytest.raises(ConfigError, match="task: expected detect, got classify"):
        read_config(folder / "made.yaml")
