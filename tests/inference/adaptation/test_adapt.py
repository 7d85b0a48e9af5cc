"""``blastdet adapt`` from reviewed cells to weights, with a classifier that sees mean colours."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from colour_classifier import write_colour_classifier
from detecting import run_here
from PIL import Image

import blastdet
from blastdet.core.errors import BlastdetError, ConfigError
from blastdet.core.model_card import HEAD, find_weights, read_card, sha256_of, write_card
from blastdet.datasets.cropping.crop_table import CropRow
from blastdet.inference.adaptation.adapt import AdaptOptions, adapt
from blastdet.inference.adaptation.choosing import refusal
from blastdet.models.classifier import load_classifier

SMEARS, EACH = 5, 5
MPP = 0.5


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The shipped detector, in colours as they are, and the colour classifier beside it."""
    parent = tmp_path_factory.mktemp("weights")
    card = read_card(find_weights("default"))
    shutil.copytree(find_weights("default"), parent / "tiny")
    seen = card.input.model_copy(update={"colour": "as it is"})
    write_card(card.model_copy(update={"second_stage": "colour", "input": seen}), parent / "tiny")
    write_colour_classifier(parent / "colour")
    return parent / "tiny"


def _shifted(kind, rng):
    """A plain cell of a laboratory whose stain is so green that the classifier calls nothing a blast."""
    red = 150 if kind == "blast" else 90
    return (red + rng.integers(-25, 26), 200 + rng.integers(-25, 26), rng.integers(0, 256))


def _blue(kind, rng):
    """A cell whose class only blue tells, which the classifier does not look at."""
    return (*rng.integers(60, 200, 2), (200 if kind == "blast" else 60) + rng.integers(-25, 26))


def _useless(kind, rng):
    return tuple(rng.integers(60, 200, 3))


def _each(colour, seed=0):
    """Smear, kind and image of each cell."""
    rng = np.random.default_rng(seed)
    for smear in range(SMEARS):
        for kind in ["blast", "lymphocyte"] * EACH:
            yield f"smear-{smear}", kind, np.full((16, 16, 3), colour(kind, rng), np.uint8)


def _crops(folder, colour):
    """As ``blastdet crops`` writes them."""
    folder.mkdir()
    rows = []
    for i, (smear, kind, rgb) in enumerate(_each(colour)):
        Image.fromarray(rgb).save(folder / f"{i}.png")
        words = {"crop": f"{i}.png", "source": f"{smear}.png", "group": smear, "label": "wbc", "cell_type": kind}
        rows.append(words | {"x1": 0, "y1": 0, "x2": 9, "y2": 9, "score": 1, "mpp": MPP})
    rows.append(rows[0] | {"crop": "s.png", "cell_type": "smudge"})
    shutil.copy(folder / "0.png", folder / "s.png")
    with (folder / "crops.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(CropRow.__annotations__), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _cell_images(folder, colour, by_smear=True):
    for i, (smear, kind, rgb) in enumerate(_each(colour)):
        path = (folder / kind / smear if by_smear else folder / kind) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(path)
    return folder


def _smears(folder, colour):
    """Whole images of ten cells each, as COCO."""
    folder.mkdir()
    images, annotations = [], []
    for number in range(SMEARS):
        canvas = np.full((40, 340, 3), 235, np.uint8)
        for k, (_, kind, rgb) in enumerate(list(_each(colour))[number * 2 * EACH : (number + 1) * 2 * EACH]):
            x = 10 + 32 * k
            canvas[5:31, x - 3 : x + 23] = rgb[0, 0]  # beyond the box: the crop is wider
            box = {"bbox": [x, 8, 20, 20], "area": 400, "iscrowd": 0}
            kinds = {"blast": 1, "lymphocyte": 2}
            annotations.append({"id": len(annotations), "image_id": number, "category_id": kinds[kind], **box})
        Image.fromarray(canvas).save(folder / f"{number}.png")
        named = {"file_name": f"{number}.png", "group": f"smear-{number}", "mpp": [MPP, MPP]}
        images.append({"id": number, "width": 340, "height": 40, **named})
    names = [{"id": 1, "name": "blast"}, {"id": 2, "name": "wbc"}]
    (folder / "truth.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    return folder / "truth.json"


def _share_called(weights, colour):
    """Share of blasts, and of others, of new cells that weights call blasts."""
    model = blastdet.load(weights, "cpu").classifier
    some = list(_each(colour, seed=1))
    blast = model([rgb for _, _, rgb in some], [MPP] * len(some)).probability[:, 0]
    called, truth = blast >= model.card.thresholds["blast"].value, np.array([kind == "blast" for _, kind, _ in some])
    return called[truth].mean(), called[~truth].mean()


def test_a_shifted_stain_is_mended_from_the_command_line(weights, tmp_path):
    assert _share_called(weights, _shifted) == (0, 0)
    _crops(tmp_path / "crops", _shifted)
    done = run_here("adapt", "--data", "crops", "--weights", weights, "--out", "mine", cwd=tmp_path)
    sensitivity, false = _share_called(tmp_path / "mine", _shifted)
    assert sensitivity > 0.8 and false < 0.2
    card = read_card(tmp_path / "mine-second-stage")
    about = card.adaptation
    assert about is not None and card.name == "colour-adapted" and about.parent == "colour"
    assert about.parent_sha256 == sha256_of(weights.parent / "colour/card.json")
    assert (about.n_cells, about.n_blasts, about.smears) == (50, 25, {f"smear-{i}": 10 for i in range(5)})
    assert card.thresholds["blast"].value == 0.5 and card.unsure is not None
    assert card.unsure.distance >= 1.5 and 0.2 <= card.unsure.low <= card.unsure.high <= 0.8
    assert sum(one.blasts for one in card.trials) == 25 and len(card.trials) == 5
    figure = {one.metric: one for one in about.metrics}["balanced accuracy"]
    assert figure.before == 0.5 and figure.after > 0.8
    for text in (
        "cells     50: 25 blasts, 25 other white cells; 5 smears",
        "smear-3: 5 blasts, 5 others",
        "left out  1 smudges",
        "leave one smear out, n = 50",
        "balanced accuracy: 0.50 (95 % CI",
        f"fitted    {about.method}",
        "next      blastdet detect IMAGES --weights mine",
    ):
        assert text in done.output


def test_slope_and_offset_go_into_the_calibration(weights, tmp_path):
    """The features are of no more use than the logit here, and no head is written."""
    adapt(_crops(tmp_path / "crops", _shifted), weights=weights, out=tmp_path / "once", say=str)
    card = read_card(tmp_path / "once-second-stage")
    assert card.adaptation is not None
    assert (HEAD in card.files) == (card.adaptation.method == "last layer")
    if card.calibration is not None:
        assert card.calibration.offset > 1


def test_a_last_layer_mends_what_slope_and_offset_cannot(weights, tmp_path):
    out = adapt(_crops(tmp_path / "crops", _blue), weights=weights, out=tmp_path / "mine", say=str)
    card = read_card(tmp_path / "mine-second-stage")
    assert card.adaptation is not None and card.adaptation.method == "last layer" and HEAD in card.files
    sensitivity, false = _share_called(out, _blue)
    assert sensitivity > 0.9 and false < 0.1
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    assert _share_called(tmp_path.with_name("moved") / "mine", _blue) == (sensitivity, false)


def test_an_adapted_model_is_adapted_on_top(weights, tmp_path):
    """What the second adaptation fits is applied to the logit of the first, whichever form it has."""
    first = adapt(_crops(tmp_path / "crops", _blue), weights=weights, out=tmp_path / "mine", say=str)
    with pytest.raises(ConfigError, match=r"adapted to these cells already\. Pass the weights of colour"):
        adapt(tmp_path / "crops", weights=first, out=tmp_path / "again", say=str)

    def inverted(kind, rng):
        return _blue("lymphocyte" if kind == "blast" else "blast", rng)

    second = adapt(_crops(tmp_path / "other", inverted), weights=first, out=tmp_path / "other-lab", say=str)
    sensitivity, false = _share_called(second, inverted)
    assert sensitivity > 0.9 and false < 0.1


def test_a_laboratory_that_the_model_knows_is_one_of_three_causes():
    """Nothing can be fitted where the model was trained on such images already."""
    figures = [SimpleNamespace(metric=name, before=0.9, after=0.5) for name in ("balanced accuracy", "log-loss")]
    choice = SimpleNamespace(candidate=SimpleNamespace(method="last layer"), is_blind=False)
    why = refusal(choice, figures)
    assert "Check the labels, or review more cells" in why
    assert "or this laboratory is in the training data already" in why


def test_useless_cells_are_refused_and_nothing_is_written(weights, tmp_path):
    _crops(tmp_path / "crops", _useless)
    words = ("--weights", weights, "--out", "mine")
    done = run_here("adapt", "--data", "crops", *words, "--map", "x=wbc", cwd=tmp_path, code=2)
    assert "--map: for a dataset of images, got a folder of crops" in done.output
    done = run_here("adapt", "--data", "crops", "--weights", weights, "--out", "mine", cwd=tmp_path, code=2)
    assert "adapting does not help: on cells left out" in done.output and "Nothing was written" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["crops"]


@pytest.mark.parametrize("by_smear", [True, False])
def test_images_of_one_cell_in_folders_of_types(weights, tmp_path, by_smear):
    _cell_images(tmp_path / "cells", _blue, by_smear)
    (tmp_path / "cells" / "un\x1b[2J\nknown").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "cells/un\x1b[2J\nknown/x.png")
    lines = []
    options = AdaptOptions(mpp=MPP)
    out = adapt(tmp_path / "cells", weights=weights, out=tmp_path / "mine", options=options, say=lines.append)
    sensitivity, false = _share_called(out, _blue)
    assert sensitivity > 0.9 and false < 0.1
    text = "\n".join(lines)
    assert "un\\x1b[2J\\nknown: no known cell type, 1 image ignored" in text and "\x1b" not in text
    assert ("leave one smear out" in text) == by_smear and ("5 folds of cells" in text) != by_smear
    assert ("no smears or patients are named" in text) != by_smear
    with pytest.raises(BlastdetError, match=r"an image of one cell without a scale\. Pass --mpp"):
        adapt(tmp_path / "cells", weights=weights, out=tmp_path / "other", say=str)


def test_images_of_one_cell_without_a_smear_beside_others_share_one(weights, tmp_path):
    """All blasts are of that one: the stain could tell them apart, so it is not learnt."""
    rng = np.random.default_rng(0)
    for kind, count in (("blast", 12), ("lymphocyte", 6)):
        for i in range(count):
            smears = [""] if kind == "blast" else ["s0", "s1"]
            for smear in smears:
                path = tmp_path / "cells" / kind / smear / f"{kind}-{smear}-{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((16, 16, 3), _shifted(kind, rng), np.uint8)).save(path)
    lines = []
    options = AdaptOptions(mpp=MPP)
    adapt(tmp_path / "cells", weights=weights, out=tmp_path / "mine", options=options, say=lines.append)
    text = "\n".join(lines)
    assert "24: 12 blasts, 12 other white cells; 3 smears" in text and "unnamed: 12 blasts, 0 others" in text
    assert "no smear or patient is named for 12 images of one cell: they count as one smear" in text
    assert "one smear holds nearly all blasts" in text
    assert "how often the model errs is not known from so few smears" in text
    assert "hardly a cell will be marked unsure" in text


def test_annotated_images_and_corrections(weights, tmp_path):
    """Of a corrected dataset, only the cells count that a person corrected or confirmed."""
    truth = _smears(tmp_path / "films", _blue)
    whole = []
    adapt(truth, weights=weights, out=tmp_path / "whole", say=whole.append)
    assert whole[0] == "cells     50: 25 blasts, 25 other white cells; 5 smears"
    lines = []
    document = json.loads(truth.read_text("utf-8"))
    for one in document["annotations"][:30]:
        x, y, w, h = one["bbox"]
        name = {1: "blast", 2: "wbc"}[one["category_id"]]
        digest = sha256_of(truth.parent / f"{one['image_id']}.png")
        row = {"image_sha256": digest, "box_xyxy": [x, y, x + w, y + h], "op": "class", "new_class": name}
        lines.append(json.dumps(row | {"old_class": "wbc"}))
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    for one in document["annotations"]:
        one["category_id"] = 2  # what the review corrects
    truth.write_text(json.dumps(document))
    corrected = []
    adapt(truth, corrections=tmp_path / "c.jsonl", weights=weights, out=tmp_path / "mine", say=corrected.append)
    assert corrected[0] == "cells     30: 15 blasts, 15 other white cells; 3 smears"
    assert "20 not reviewed" in "\n".join(corrected)
    about = read_card(tmp_path / "mine-second-stage").adaptation
    assert about is not None and about.corrections_sha256 == sha256_of(tmp_path / "c.jsonl")
    truth.rename(tmp_path / "elsewhere.json")  # images that nobody annotated, but for the review
    words = ["--data", truth.parent, "--from", "images", "--corrections", "c.jsonl", "--mpp", MPP]
    done = run_here("adapt", *words, "--weights", weights, "--out", "unannotated", cwd=tmp_path)
    assert "cells     30: 15 blasts, 15 other white cells; 3 smears" in done.output
    assert "each image counts as a smear" in done.output
    (tmp_path / "elsewhere.json").rename(truth)
    with pytest.raises(BlastdetError, match=r"expected at least 10 white cells.* got 0 blasts and 50 others"):
        adapt(truth, weights=weights, out=tmp_path / "other", say=str)


def test_existing_folders_are_kept(weights, tmp_path):
    crops = _crops(tmp_path / "crops", _blue)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="taken: exists already"):
        adapt(crops, weights=weights, out=tmp_path / "taken", say=str)
    with pytest.raises(ConfigError, match=r"taken: expected weights to replace, got no card\.json"):
        adapt(crops, weights=weights, out=tmp_path / "taken", options=AdaptOptions(overwrite=True), say=str)
    adapt(crops, weights=weights, out=tmp_path / "mine", say=str)
    adapt(crops, weights=weights, out=tmp_path / "mine", options=AdaptOptions(overwrite=True), say=str)
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt: not part of weights"):
        adapt(crops, weights=weights, out=tmp_path / "mine", options=AdaptOptions(overwrite=True), say=str)


def test_an_older_classifier_without_features_gets_slope_and_offset(weights, tmp_path, monkeypatch):
    classifier = type(load_classifier(weights.parent / "colour", "cpu"))
    monkeypatch.setattr(classifier, "has_features", False)
    adapt(_crops(tmp_path / "crops", _shifted), weights=weights, out=tmp_path / "mine", say=str)
    card = read_card(tmp_path / "mine-second-stage")
    assert card.adaptation is not None and card.adaptation.method != "last layer" and HEAD not in card.files
    assert card.calibration is not None and card.calibration.offset > 1


def test_adapting_imports_no_training_package(weights, tmp_path):
    _crops(tmp_path / "crops", _blue)
    code = (
        "import sys\nfor name in ('torch', 'sklearn', 'matplotlib'): sys.modules[name] = None\n"
        f"import blastdet\nblastdet.adapt('crops', weights={str(weights)!r}, out='mine')"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
