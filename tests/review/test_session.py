"""FiftyOne with its MongoDB: views, and corrections made there."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from blastdet.core.errors import ReviewError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import Detections
from blastdet.datasets.apply_corrections import replay_corrections
from blastdet.datasets.corrections import read_corrections
from blastdet.review.cells import VIEWS, compare_cells, in_view
from blastdet.review.embedding import Embedding
from blastdet.review.fiftyone_dataset import EVALUATION, MAP, _shown_as, load
from blastdet.review.fiftyone_session import check_port
from blastdet.review.review import Review

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of FiftyOne's own dependencies


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@pytest.fixture(scope="module")
def fiftyone(tmp_path_factory):
    """FiftyOne with a database of its own."""
    from blastdet.review.fiftyone_session import started

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of FiftyOne's own dependencies
        patch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path_factory.mktemp("mongo")))
        with started(None) as module:
            yield module


def _load(fiftyone, made, name):
    dataset, predictions = made
    dataset, cells = compare_cells(dataset, predictions)
    features = np.array([[cell.sample, *cell.box] for cell in cells], np.float32)
    embedding = Embedding(np.arange(len(cells)), features)
    return load(fiftyone, name, Review(dataset, cells, predictions, embedding)), dataset, cells


@pytest.fixture(scope="module")
def loaded(fiftyone, made_once):
    """A review in FiftyOne, its dataset and its cells, which no test changes."""
    return _load(fiftyone, made_once, "unchanged")


@pytest.fixture
def own(fiftyone, made):
    """As `loaded`, to be changed."""
    reviewed, *others = _load(fiftyone, made, f"test {time.time()}")
    yield reviewed, *others
    fiftyone.delete_dataset(reviewed.name)


def test_samples_cells_and_views_are_loaded(loaded):
    reviewed, _, cells = loaded
    assert len(reviewed) == 4 and reviewed.count("truth.detections") == 80
    for name, view in VIEWS.items():
        expected = len(in_view(cells, name))
        assert (view.title in reviewed.list_saved_views()) == bool(expected)
        if expected:
            shown = reviewed.load_saved_view(view.title)
            keys = {(s.sha256, tuple(d.key)) for s in shown for f in ("truth", "detected") for d in s[f].detections}
            assert len(keys) == expected, name
    assert reviewed.load_saved_view("images with most errors first").first().errors == 1


def test_single_cells_are_shown_in_the_order_of_the_view(loaded):
    reviewed, dataset, cells = loaded
    for name, view in VIEWS.items():
        expected = in_view(cells, name)
        if expected:
            shown = [(s.sha256, tuple(s.cells.key)) for s in _with_sha(reviewed, f"{view.title}: cells")]
            sha = [sha256_of(sample.path) for sample in dataset]
            assert shown[0] == (sha[expected[0].sample], expected[0].box), name
            assert sorted(shown) == sorted((sha[cell.sample], cell.box) for cell in expected), name


def _with_sha(reviewed, name):
    """Patches of a saved view, with the sha256 of their image."""
    sha = dict(zip(*reviewed.values(["id", "sha256"]), strict=True))
    for patch in reviewed.load_saved_view(name):
        yield SimpleNamespace(sha256=sha[str(patch.sample_id)], cells=patch.cells)


def test_fiftyones_own_evaluation_counts_as_ours_does(loaded):
    reviewed, _, cells = loaded
    assert EVALUATION in reviewed.list_evaluations()
    theirs = reviewed.count_values(f"detected.detections.{EVALUATION}")
    ours = Counter(cell.kind for cell in cells)
    # Theirs knows no kind "confused": a pair of two classes is a false and a missed cell.
    assert theirs == {"tp": ours["hit"], "fp": ours["false"] + ours["confused"]}
    missed = reviewed.count_values(f"truth.detections.{EVALUATION}")["fn"]
    assert missed == ours["missed"] + ours["confused"]


def test_every_cell_is_in_the_embedding(loaded):
    reviewed, _, cells = loaded
    assert MAP in reviewed.list_brain_runs()
    found = reviewed.load_brain_results(MAP)
    assert found.points.shape == (len(cells), 2) and found.config.patches_field == "cells"
    assert sorted(found.label_ids) == sorted(reviewed.values("cells.detections.id", unwind=True))


def test_a_session_of_the_same_name_continues(fiftyone, own, made):
    reviewed, dataset, cells = own
    sample = reviewed.first()
    sample.truth.detections[0].tags.append("ok")
    sample.save()
    again = load(fiftyone, reviewed.name, Review(dataset, cells, made[1]))
    assert again.count_label_tags("truth") == {"ok": 1}
    again.info = {**again.info, "loaded": False}  # as after a kill while it loaded
    again.save()
    anew = load(fiftyone, reviewed.name, Review(dataset, cells, made[1]))
    assert len(anew) == 4 and anew.count_label_tags("truth") == {} and not anew.list_brain_runs()


def test_corrections_of_every_kind_are_collected(own, tmp_path):
    from blastdet.review.fiftyone_session import Recorder, collect

    reviewed, dataset, _ = own
    sample = reviewed.match({"filepath": {"$regex": "s0"}}).first()
    labels = sample.truth.detections
    labels[0].tags.append("fix:ignore")
    labels[1].label = "rbc"
    labels[2].tags.append("ok")
    width, height = 310, 250
    x, y, w, h = labels[3].bounding_box
    labels[3].bounding_box = [x + 4 / width, y, w, h]
    import fiftyone as fo

    labels.append(fo.Detection(label="wbc", bounding_box=[250 / width, 200 / height, 40 / width, 40 / height]))
    del labels[4]
    sample.save()
    other = reviewed.match({"filepath": {"$regex": "s1"}}).first()
    extra = next(label for label in other.detected.detections if label.kind == "false")
    extra.tags.append("fix:blast")  # a detection without annotation becomes a cell
    other.save()
    after, counts = replay_corrections(dataset, collect(reviewed, "reviewer"))
    assert counts == {"ignored": 1, "relabelled": 1, "confirmed": 1, "moved": 1, "added": 2, "deleted": 1}
    assert len(after.samples[0].truth) == 20 and len(after.samples[1].truth) == 21
    path = tmp_path / "corrections.jsonl"
    recorder = Recorder(reviewed, path)
    assert recorder.write() == 7 and recorder.write() == 0 and len(read_corrections(path)) == 7
    _, again = replay_corrections(dataset, read_corrections(path))
    assert again == counts
    assert Recorder(reviewed, path).write() == 0  # as after an interruption: the file says what was written
    sample.reload()
    sample.truth.detections[0].tags.remove("fix:ignore")
    sample.save()
    assert recorder.write() == 1 and read_corrections(path)[-1].op == "undo"
    sample.truth.detections[2].tags.remove("ok")  # while no session runs
    sample.save()
    assert Recorder(fo.load_dataset(reviewed.name), path).write() == 1
    assert read_corrections(path)[-1].op == "undo" and Recorder(reviewed, path).write() == 0
    _, fewer = replay_corrections(dataset, read_corrections(path))
    labels = sample.truth.detections
    labels[5].tags.extend(["fix:neutrophil", "fix:rbc", "ok"])
    sample.save()
    assert Recorder(reviewed, path).write() == 1
    recorder.write()
    assert any("unknown tag fix:neutrophil on 1 cells" in line for line in recorder.warnings)
    assert "1 cells have more than one of these tags; the first one counts" in recorder.warnings
    labels[5].tags = []
    sample.save()
    assert recorder.write() == 1 and recorder.warnings == []
    _, fewer = replay_corrections(dataset, read_corrections(path))
    assert fewer == {key: number for key, number in counts.items() if key not in ("ignored", "confirmed")}


def test_an_ignored_region_stays_ignored_when_it_is_moved(fiftyone, made, tmp_path):
    from blastdet.review.fiftyone_session import Recorder

    dataset, predictions = made
    ignore = np.arange(20) == 2
    samples = [replace(s, truth=s.truth.with_columns(ignore=ignore)) for s in dataset]
    dataset, cells = compare_cells(replace(dataset, samples=tuple(samples)), predictions)
    reviewed = load(fiftyone, f"ignored {time.time()}", Review(dataset, cells, predictions))
    sample = reviewed.first()
    (region,) = (label for label in sample.truth.detections if label.label == "ignored")
    x, y, w, h = region.bounding_box
    region.bounding_box = [x + 5 / 310, y, w, h]
    region.tags.append("ok")
    sample.save()
    recorder = Recorder(reviewed, tmp_path / "c.jsonl")
    assert recorder.write() == 1 and recorder.write() == 0
    (line,) = read_corrections(tmp_path / "c.jsonl")
    assert (line.op, line.old_class, line.new_class) == ("ignore", "", "") and line.new_box_xyxy is not None
    after, counts = replay_corrections(dataset, [line])
    assert counts == {"moved": 1} and sum(s.truth.ignore.sum() for s in after) == 4
    fiftyone.delete_dataset(reviewed.name)


def test_a_name_or_port_in_use_gives_a_one_line_error(fiftyone, loaded, made_once):
    reviewed, dataset, cells = loaded
    with pytest.raises(ReviewError, match="the database has a review of this name with other images"):
        load(fiftyone, reviewed.name, Review(dataset, cells, replace(made_once[1], about={"sha256": "other"})))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ReviewError, match="cannot be used"):
            check_port(taken.getsockname()[1])


def test_an_unreachable_database_gives_a_one_line_error(tmp_path):
    words = ["review", "--data", str(Path(__file__).parents[2] / "datasets/demo/truth.json"), "--weights", "default"]
    uri = f"mongodb://127.0.0.1:{_free_port()}/?serverSelectionTimeoutMS=300"
    command = [sys.executable, "-m", "blastdet", *words, "--no-browser", "--database-uri", uri]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "cannot be used" in done.stderr and "Traceback" not in done.stderr


def test_what_is_detected_has_the_colour_of_its_type(fiftyone, loaded):
    reviewed, _, _ = loaded
    by = {field["path"]: field["colorByAttribute"] for field in reviewed.app_config.color_scheme.fields}
    assert by == {"truth": "label", "detected": "shown_as", "cells": "shown_as"}
    for field in ("detected", "cells"):
        assert None not in reviewed.values(f"{field}.detections.shown_as", unwind=True)
    typed = Detections(
        [[0, 0, 9, 9]] * 3,
        label=[1, 1, 1],
        cell_type=["monocyte", "", ""],
        blast_probability=[0.1, 0.5, float("nan")],
        unsure=[False, True, False],
    )
    labels = typed.to_fiftyone((18, 18)).detections
    assert [label.shown_as for label in labels] == ["monocyte", "unsure", "wbc"]
    assert [label.label for label in labels] == ["wbc"] * 3 and labels[0].cell_type == "monocyte"
    assert labels[0].blast_probability == pytest.approx(0.1) and not labels[2].has_field("blast_probability")


@pytest.mark.parametrize(
    ("change", "shown"),
    [({}, "wbc"), ({"cell_type": "smudge"}, "smudge"), ({"unsure": True}, "unsure"), ({"cell_type": "other"}, "wbc")],
)
def test_a_cell_is_shown_as_its_type(loaded, change, shown):
    _, _, cells = loaded
    assert _shown_as(replace(cells[0], **change), "wbc") == shown


def test_detections_to_fiftyone_and_back(fiftyone, loaded):
    from blastdet.core.errors import FormatError

    reviewed, dataset, _ = loaded
    sample = reviewed.first()
    truth = dataset.samples[0].truth
    for after in (
        Detections.from_fiftyone(sample, field="truth"),
        Detections.from_fiftyone(sample.truth, (310, 250)),
        Detections.from_fiftyone(truth.to_fiftyone((310, 250)), (310, 250)),
    ):
        np.testing.assert_allclose(after.boxes_xyxy, truth.boxes_xyxy, atol=1e-3)
        np.testing.assert_array_equal(after.label, truth.label)
        np.testing.assert_array_equal(after.score, truth.score)
    with pytest.raises(FormatError, match=r"expected one field of detections, got .*truth"):
        Detections.from_fiftyone(sample)
    with pytest.raises(FormatError, match="expected a field of detections, got 'nothing'"):
        Detections.from_fiftyone(sample, field="nothing")
    with pytest.raises(FormatError, match="expected size_wh"):
        Detections.from_fiftyone(sample.truth)
    labels = fiftyone.Detections(detections=[fiftyone.Detection(label="Leukocyte", bounding_box=[0, 0, 0.5, 0.5])])
    with pytest.raises(FormatError, match=r"Unknown classes: Leukocyte \(1\)"):
        Detections.from_fiftyone(labels, (10, 10))
    assert Detections.from_fiftyone(labels, (10, 10), {"Leukocyte": "wbc"}).label.tolist() == [1]
