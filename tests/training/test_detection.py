"""The training loop on a tiny dataset: it trains, exports what torch computes, and resumes exactly."""

from __future__ import annotations

import fcntl
import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from made import kill_after_an_epoch

from blastdet.core.errors import BlastdetError, ConfigError
from blastdet.core.model_card import read_card, sha256_of
from blastdet.datasets.corrections import Correction, append_corrections
from blastdet.datasets.formats import registry
from blastdet.models.detector import load_detector
from blastdet.training.config_file import read_config
from blastdet.training.detection.train import build, train_detector
from blastdet.training.detection.training_data import fingerprint
from blastdet.training.detection.yolo_network import Yolo
from blastdet.training.loop import checkpoints, engine, run_record, session
from blastdet.training.loop.run_folder import started
from blastdet.training.loop.run_list import summarise
from blastdet.training.loop.session import pick_device

REPO = Path(__file__).parents[2]


@pytest.fixture
def _train(blastdet):
    return lambda films, out, *words, code=0: blastdet("train", "tiny.yaml", "--out", out, *words, code=code)


def test_run_folder_and_card(trained, films):
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "metrics.csv", "curves.png", "samples.png", "examples.jpg", "events"} <= names
    assert {"last.pt", "best.pt", "weights"} <= names
    card = read_card(trained / "weights")
    assert card.mpp == 0.4 and card.classes == ("wbc", "rbc", "platelet")
    assert card.training.data[0].n_images > 0 and len(card.training.data[0].fingerprint) == 64
    assert read_config(trained / "config.yaml").epochs == 3
    assert len((trained / "metrics.csv").read_text().splitlines()) == 4


def test_detect_takes_the_weights(trained, films):
    command = [sys.executable, "-m", "blastdet", "detect", "films/smear_0000.jpg", "--weights", "whole/weights"]
    run = subprocess.run([*command, "--mpp", "0.25"], cwd=films, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_killed_and_resumed_equals_uninterrupted(trained, films, _train):
    kill_after_an_epoch(films, "killed", "tiny.yaml")
    run = _train(films, "killed", "--resume")
    assert "resuming after epoch" in run.stdout
    whole, killed = (
        torch.load(films / name / "last.pt", weights_only=True, map_location="cpu") for name in ("whole", "killed")
    )
    for part in ("model", "ema"):
        for name, value in whole[part].items():
            torch.testing.assert_close(killed[part][name], value, rtol=0, atol=0, msg=f"{part} {name}")
    for old, new in zip(whole["history"], killed["history"], strict=True):
        assert {k: v for k, v in old.items() if k != "seconds"} == {k: v for k, v in new.items() if k != "seconds"}


def test_a_dataset_exported_by_review_can_be_trained_on(films, blastdet):
    """Corrections are applied, the dataset is written, and its path is sufficient for a training."""
    dataset = registry.read(films / "films/truth.json")
    sample = dataset.samples[0]
    words = {
        "who": "A",
        "when": "2026-01-01T00:00:00Z",
        "image": sample.path.name,
        "image_sha256": sha256_of(sample.path),
    }
    gone = Correction(**words, box_xyxy=tuple(sample.truth.boxes_xyxy[0].tolist()), op="delete", old_class="wbc")
    append_corrections(films / "c.jsonl", [gone])
    exported = blastdet("review", "export", "--data", "films/truth.json", "--corrections", "c.jsonl", "corrected")
    assert "1 deleted" in exported.stdout
    run = blastdet("train", "tiny.yaml", "--data", "corrected", "--out", "of-corrected", "--set", "epochs=1")
    assert "corrected by review" in run.stdout and "1 deleted" in run.stdout
    (source,) = read_card(films / "of-corrected/weights").training.data
    assert source.split in ("train of grouped", "train of official-disjoint") and 0 < source.n_images < 10
    run = blastdet(
        "train", "--data", "corrected", "--set", "epoch_samples=4", "--set", "epochs=1", "--set", "workers=0"
    )
    card = read_card(films / "runs/default-corrected/weights")
    assert card.training.config["model"] == "yolov5p2n" and len(card.training.data) == 1
    run = blastdet("train", code=2)
    assert "Expected CONFIG or --data" in run.stderr


def test_a_second_run_does_not_overwrite_the_first(trained, films, _train):
    run = _train(films, "whole", code=2)
    assert "contains a run already. Pass --resume" in run.stderr


def test_resume_needs_the_same_configuration(trained, films, _train):
    run = _train(films, "whole", "--resume", "--set", "lr=0.5", code=2)
    assert "differs from the given configuration in lr;" in run.stderr


@pytest.mark.parametrize("name", ["notes.txt", "metrics.csv", "weights/mine.txt"])
def test_a_folder_with_other_files_is_not_touched(trained, films, tmp_path, _train, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    run = _train(films, tmp_path, code=2)
    assert "not part of a run" in run.stderr
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["mine"]


def test_a_training_that_cannot_start_leaves_nothing(films, tmp_path, _train):
    _train(films, tmp_path / "run", "--set", "data.0.path=nowhere", code=2)
    _train(films, tmp_path / "run", "--resume", code=2)
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    assert "expected a folder for the run, got a file" in _train(films, tmp_path / "file", code=2).stderr


def _copy_of(trained, folder):
    for name in ("last.pt", "last.pt.sha256", "best.pt", "config.yaml", "sources.json"):
        (folder / name).write_bytes((trained / name).read_bytes())


def test_killed_between_checkpoint_and_its_sha256(trained, films, tmp_path, _train):
    _copy_of(trained, tmp_path)
    (tmp_path / "last.pt.sha256").rename(tmp_path / "last.pt.sha256.tmp")
    (tmp_path / "last.pt.sha256").write_text("0" * 64)
    assert "resuming after epoch 3" in _train(films, tmp_path, "--resume").stdout


def test_a_run_is_not_resumed_with_changed_data(trained, films, tmp_path, _train):
    _copy_of(trained, tmp_path)
    path = tmp_path / "sources.json"
    (source,) = json.loads(path.read_text())
    path.write_text(path.read_text().replace(source["fingerprint"], "0" * 64))
    assert f"{source['name']}: images or labels have changed" in _train(films, tmp_path, "--resume", code=2).stderr


def test_datasets_of_one_name_are_distinguished(tmp_path):
    """As the three synthetic datasets of configs/default.yaml."""
    films = [{"name": "films", "fingerprint": c * 64} for c in "ab"]
    config, cpu = read_config(REPO / "configs/default.yaml"), torch.device("cpu")
    with started(config, tmp_path, films, cpu, resume=False):
        (tmp_path / "last.pt").write_bytes(b"")
    with started(config, tmp_path, films, cpu, resume=True):
        pass
    changed = [films[0], {"name": "films", "fingerprint": "c" * 64}]
    with (
        pytest.raises(ConfigError, match="films: images or labels have changed"),
        started(config, tmp_path, changed, cpu, resume=True),
    ):
        pass


def test_fingerprints_cover_everything_that_influences_a_training(films):
    dataset = registry.read(films / "films/truth.json")
    one, *others = (replace(sample, split="train") for sample in dataset)
    cells = one.truth.with_columns(ignore=np.arange(len(one.truth)) == 0)
    changed = [
        {"mpp": (0.3, 0.3)},
        {"annotated": ("wbc",)},
        {"split": "val"},
        {"truth": cells},
        {"truth": one.truth[1:]},
        {"path": others[0].path},
    ]
    prints = {fingerprint([replace(one, **change), *others], whole=True) for change in ({}, *changed)}
    assert len(prints) == len(changed) + 1
    assert fingerprint([*others, one], whole=True) in prints  # whatever the order
    assert fingerprint([replace(one, mpp=(0.3, 0.3))]) == fingerprint([one])


def test_a_run_started_twice_records_both_machines(tmp_path, monkeypatch):
    config, cpu = read_config(REPO / "configs/default.yaml"), torch.device("cpu")
    for commit in ("a" * 40, "a" * 40, "b" * 40):
        monkeypatch.setattr(run_record, "git_commit", lambda commit=commit: commit)
        run_record.note_start(config, tmp_path, cpu)
    record = run_record.training_record(config, (), tmp_path)
    assert record.commit == f"{'a' * 40}, then {'b' * 40}" and record.device.startswith("cpu, ")
    assert ", then" not in record.device and run_record.versions_of(tmp_path)["torch"] == metadata.version("torch")
    (tmp_path / "record.json").write_text('{"commit": 1}')
    with pytest.raises(ConfigError, match=r"record\.json: expected the record of a run"):
        run_record.versions_of(tmp_path)


@pytest.mark.parametrize("left", [(), ("best.pt",), ("best.pt.tmp",), ("best.pt", "last.pt.tmp", "last.pt.sha256.tmp")])
def test_killed_in_the_first_epoch(left, trained, films, tmp_path, _train):
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "config.yaml", tmp_path / "run")
    for name in left:
        (tmp_path / "run" / name).write_bytes(b"half")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    _train(films, tmp_path / "again", "--set", "epochs=1")
    output = _train(films, tmp_path / "run", "--resume").stdout
    assert "no epoch was finished yet: training from the start" in output
    for name in ("best.pt", "last.pt"):
        run, whole = (torch.load(folder / name, weights_only=True)["ema"] for folder in (tmp_path / "run", trained))
        assert all(torch.equal(run[key], whole[key]) for key in whole)


def test_a_run_that_stopped_early_is_finished(films, tmp_path, _train):
    words = ("--set", "patience=1", "--set", "epochs=6", "--set", "epoch_samples=4")
    _train(films, tmp_path, *words)
    before = (tmp_path / "metrics.csv").read_text()
    assert len(before.splitlines()) == 2 + 1  # no cells are detected: the second epoch is no better than the first
    assert summarise(tmp_path, tmp_path.parent).state == "finished"
    _train(films, tmp_path, *words, "--resume")
    assert (tmp_path / "metrics.csv").read_text() == before


def test_two_trainings_in_one_folder(films, tmp_path, _train):
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is writing there" in _train(films, tmp_path, code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_best_epoch_of_another_run_is_not_exported(trained, films, tmp_path, _train):
    _copy_of(trained, tmp_path)
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    torch.save(content | {"epoch": 99}, tmp_path / "best.pt")
    assert "best.pt: missing or damaged (not the best" in _train(films, tmp_path, "--resume", code=2).stderr


def test_a_name_that_is_not_utf8_is_an_error_before_the_training(films, _train):
    for out, *words in (("r\udcff",), ("run8", "--data", "f\udcff/truth.json")):
        run = _train(films, out, *words, code=2)
        assert "the file name is not valid UTF-8. Rename the file" in run.stderr and not Path(films / out).exists()


def test_one_picture_in_train_and_in_val_of_two_sets_is_refused(films, tmp_path, _train):
    dataset = registry.read(films / "films/truth.json")
    sides = [replace(s, split="val" if i < 3 else "train") for i, s in enumerate(dataset)]
    turned = [replace(s, split="train" if i < 3 else "val") for i, s in enumerate(dataset)]
    for name, smears in (("a", sides), ("b", turned)):
        registry.write(replace(dataset, samples=tuple(smears)), tmp_path / name, "coco")
    words = ["--data", str(tmp_path / "a"), "--data", str(tmp_path / "b")]
    assert "are the same image" in _train(films, tmp_path / "run", *words, code=2).stderr


def test_another_file_as_checkpoint_is_one_line(trained, films, tmp_path, _train):
    _copy_of(trained, tmp_path)
    torch.save({"other": 1}, tmp_path / "last.pt")
    (tmp_path / "last.pt.sha256").write_text(sha256_of(tmp_path / "last.pt"))
    assert "last.pt: not a checkpoint of this model" in _train(films, tmp_path, "--resume", code=2).stderr


def test_a_damaged_checkpoint_is_one_line(trained, films, tmp_path, _train):
    for name in ("last.pt", "last.pt.sha256", "config.yaml", "sources.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    content = bytearray((tmp_path / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "last.pt").write_bytes(content)
    run = _train(films, tmp_path, "--resume", code=2)
    assert "last.pt: damaged" in run.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "data.0.path=nowhere"], "nowhere: no such file"),
        (["--set", "model=yolov99"], "model: expected one of"),
        (["--device", "cuda:9"], "device cuda:9: no CUDA device found"),
        (["--set", "leave_out=[truth.json]"], "no annotated images in any val split"),
        (["--set", "foo=1"], "foo: unknown entry"),
        (["--set", "epohcs=1"], "epohcs: unknown entry, did you mean epochs?"),
        (["--set", "seed=-1"], "seed: Input should be greater than or equal to 0"),
        (["--set", "mpp=.inf"], "mpp: Input should be a finite number"),
        (["--set", "mpp=1000"], "mpp: Input should be less than or equal to 5"),
        (["--set", "tile_wh=[10,10]"], "tile_wh: expected 96 to 8192 each (got [10, 10])"),
        (
            ["--set", "augment.scale=[2,1]"],
            "augment.scale: expected [smallest, largest] between 0.1 and 10, got [2.0, 1.0]",
        ),
        (
            ["--set", "augment.scale=[0,1]"],
            "augment.scale: expected [smallest, largest] between 0.1 and 10, got [0.0, 1.0]",
        ),
        (["--set", "data.0.options={path: 3}"], "['path']: set these as entries of the dataset"),
        (["--set", "data.0.options={images: 3}"], "images: expected a path"),
        (["--set", 'name="a\\0b"'], "name: String should match pattern"),
    ],
)
def test_bad_input_is_one_line(films, tmp_path, words, line, _train):
    run = _train(films, tmp_path / "out", *words, code=2)
    assert line in run.stderr and "Traceback" not in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_a_loss_that_is_not_finite_stops_the_run(films, monkeypatch, tmp_path):
    def poisoned(self, batch, autocast):
        return torch.tensor(float("nan"), requires_grad=True), {"box_loss": float("nan")}

    monkeypatch.setattr(Yolo, "loss", poisoned)
    monkeypatch.chdir(films)
    with pytest.raises(BlastdetError, match=r"loss nan in epoch 1, batch 1: .*; its images: .*smear_\d+\.jpg"):
        train_detector(read_config(films / "tiny.yaml"), films, tmp_path / "run", "cpu")


def test_a_full_disk_loses_nothing(tmp_path):
    path = tmp_path / "x.pt"
    checkpoints.save(path, {"a": torch.zeros(3)})
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # files cannot grow further, as on a full disk
    try:
        with pytest.raises(BlastdetError, match=r"x\.pt: cannot be written") as error:
            checkpoints.save(path, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["x.pt"]


def test_events_on_a_full_disk_are_one_line(tmp_path, capfd):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(BlastdetError, match="events: cannot be written"), session.event_file(tmp_path, 0) as write:
            for epoch in range(1, 200):
                write({"epoch": float(epoch), "loss": 1.0, "AP50 wbc": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Traceback" not in capfd.readouterr().err


def test_the_scaler_of_fp16_is_in_the_checkpoint(films, tmp_path):
    config = read_config(films / "tiny.yaml", ["amp=fp16"])
    state = engine.start(build(config), config, torch.device("cpu"))
    state.scaler.scale(torch.ones(1))  # it has no state before its first use
    state.scaler.update(1024.0)
    checkpoints.save_state(tmp_path / "last.pt", state)
    fresh = engine.start(build(config), config, torch.device("cpu"))
    assert checkpoints.resume(fresh, tmp_path).scaler.get_scale() == 1024.0


def test_unknown_classes_have_no_gradient_on_class_scores(yolo_batch):
    model = Yolo("yolov5n", 3).to(torch.device("cpu"))
    off = torch.autocast("cpu", enabled=False)
    known = np.ones((3, 12, 12), bool)
    known[1] = False
    model.module.train()
    head = model.module.model[-1]
    total, _ = model.loss(yolo_batch(known), off)
    total.backward()
    for branch in head.cv3:  # the last layer's weights: one row a class
        gradient = branch[-1].weight.grad
        assert gradient[1].abs().max() == 0
        assert gradient[0].abs().max() > 0 and gradient[2].abs().max() > 0


def test_all_known_is_ultralytics_own_loss(yolo_batch):
    from ultralytics.utils.loss import v8DetectionLoss

    torch.manual_seed(0)
    model = Yolo("yolov5n", 3).to(torch.device("cpu"))
    model.module.train()
    batch = yolo_batch(np.ones((3, 12, 12), bool))
    ours, _ = model.loss(batch, torch.autocast("cpu", enabled=False))
    images = batch["img"].contiguous(memory_format=torch.channels_last).float() / 255
    theirs, _ = v8DetectionLoss(model.module)(model.module(images), batch)
    torch.testing.assert_close(ours, theirs.sum(), rtol=1e-4, atol=1e-4)


def test_the_export_takes_any_batch_and_size(trained):
    detector = load_detector(trained / "weights", "cpu")
    images = [np.full((h, w, 3), 200, np.uint8) for h, w in ((33, 70), (64, 64), (96, 31), (33, 70))]
    together = detector(images)
    for image, expected in zip(images, together, strict=True):
        alone = detector([image])[0]
        np.testing.assert_allclose(alone.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)


def test_devices(monkeypatch):
    assert pick_device("cpu").type == "cpu"
    for word in ("tpu", "cuda:", "cuda:x", "cuda0", "cpu:1"):
        with pytest.raises(ConfigError, match=f"expected auto, cpu, cuda or cuda:N, got '{word}'"):
            pick_device(word)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # there is no GPU here
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="2 CUDA devices found"):
        pick_device("cuda:2")


def test_learning_rate_warms_up_and_falls():
    config = read_config(REPO / "configs/bccd-yolov5n.yaml")
    rates = [engine.learning_rate(config, step, 13) for step in range(13 * config.epochs)]
    top = int(np.argmax(rates))
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top + 1 :]) <= 0).all()
    assert rates[top] == pytest.approx(config.lr, rel=0.05) and rates[-1] == pytest.approx(config.lr / 100, rel=0.1)


def test_the_moving_average_is_what_is_validated(films):
    config = read_config(films / "tiny.yaml")
    state = engine.start(build(config), config, torch.device("cpu"))
    name = next(key for key, value in state.ema.items() if value.dtype.is_floating_point)
    state.ema[name] += 1
    own = state.model.module.state_dict()[name].clone()
    with engine.ema_weights(state) as model:
        torch.testing.assert_close(model.module.state_dict()[name], own + 1)
        assert not model.module.training
    torch.testing.assert_close(state.model.module.state_dict()[name], own)


@pytest.mark.parametrize(
    ("asked", "has", "used"), [("auto", True, "bf16"), ("auto", False, "off"), ("bf16", False, "bf16")]
)
def test_mixed_precision_is_used_only_where_the_processor_has_it(asked, has, used, films, monkeypatch):
    monkeypatch.setattr(engine, "_cpu_has_bf16", lambda: has)
    config = read_config(films / "tiny.yaml", [f"amp={asked}"])
    cpu = torch.device("cpu")
    assert engine.precision(config, cpu) == used
    with engine.autocast(config, cpu):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.float32 if used == "off" else torch.bfloat16)


def test_one_stage_earlier_has_the_grid_of_a_model_twice_as_fine(films):
    strides = {name: [int(s) for s in Yolo(name, 3).module.stride] for name in ("yolov5n", "yolov5p2n")}
    assert strides == {"yolov5n": [8, 16, 32], "yolov5p2n": [4, 8, 16]}
