"""Training from the weights of another model: what is taken, what is frozen, and that nothing gets worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from blastdet.cli import cli
from blastdet.core.errors import ConfigError, WeightsError
from blastdet.core.model_card import find_weights, read_card
from blastdet.training.config_file import read_any, read_config
from blastdet.training.detection.train import build, kept_second_stage, train_detector
from blastdet.training.detection.training_data import read_data
from blastdet.training.loop import engine
from blastdet.training.loop.initial_weights import read_tensors, starting_file
from blastdet.training.loop.session import Progress, freeze
from blastdet.training.quiet_imports import ultralytics
from blastdet.training.starting_config import starting_config

DEMO = Path(__file__).parents[2] / "datasets/demo/truth.json"
BODY = ("model.0.", "model.1.", "model.2.", "model.3.", "model.4.")


def _config(films, *words):
    return read_config(films / "tiny.yaml", ["epochs=1", *words])


def test_no_better_epoch_keeps_the_weights_it_started_from(trained, films, tmp_path):
    lines = []
    config = _config(films, f"init={trained / 'weights'}", "lr=1e-12", "ema=0", "val_every=1")
    weights = train_detector(config, films, tmp_path / "run", "cpu", progress=Progress(say=lines.append))
    assert any(line.startswith("starting weights: AP") for line in lines)
    assert "no epoch was better than the starting weights on validation: the model is the one it started from" in lines
    before, after = (read_card(folder) for folder in (trained / "weights", weights))
    assert after.training.epochs == 0
    for old, new in zip(before.metrics, after.metrics, strict=True):
        assert (old.metric, old.n_cells) == (new.metric, new.n_cells)
        assert new.value == pytest.approx(old.value, abs=0.01)  # batch norms were merged


def test_frozen_layers_keep_weights_and_statistics(trained, films, tmp_path):
    config = _config(films, f"init={trained / 'best.pt'}", f"freeze={list(BODY)}", "lr=0.01")
    train_detector(config, films, tmp_path / "run", "cpu", progress=Progress(say=lambda line: None))
    start = torch.load(trained / "best.pt", weights_only=True)["ema"]
    end = torch.load(tmp_path / "run/last.pt", weights_only=True)["model"]
    moved = {name for name, value in start.items() if not torch.equal(value, end[name])}
    assert moved and not any(name.startswith(BODY) for name in moved)
    assert any(name.endswith("running_mean") for name in moved)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["nothing."], "expected the start of a layer's name, such as model.0.conv.weight, got nothing."),
        ([""], "every"),
    ],
)
def test_layers_that_cannot_be_frozen_are_one_line(films, names, line):
    with pytest.raises(ConfigError, match=line):
        freeze(build(_config(films)).module, names)


def test_a_run_that_fails_at_once_leaves_nothing(films, tmp_path, monkeypatch):
    from blastdet.training.detection.yolo_network import Yolo

    def broken(self, batch, autocast):
        raise WeightsError("broken")

    monkeypatch.setattr(Yolo, "loss", broken)
    with pytest.raises(WeightsError, match="broken"):
        train_detector(_config(films, "workers=0"), films, tmp_path / "run", "cpu")
    assert [path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")] == []


def test_names_folders_and_files_to_start_from(tmp_path):
    model = find_weights("default") / "model.safetensors"
    assert starting_file("default", tmp_path) == model
    assert starting_file(str(model.parent), tmp_path) == model
    assert starting_file("mine.pt", tmp_path) == tmp_path / "mine.pt"
    with pytest.raises(WeightsError, match=r"expected a folder with card\.json or a shipped model"):
        starting_file("nothing", tmp_path)


def test_the_second_stage_of_the_shipped_detector_is_kept(films, tmp_path):
    assert (
        kept_second_stage(_config(films, "init=default"), tmp_path) == read_card(find_weights("default")).second_stage
    )
    assert kept_second_stage(_config(films), tmp_path) is None


def test_a_checkpoint_of_ultralytics_is_read_and_nothing_in_it_runs(tmp_path):
    """As ultralytics saves it: a pickled network in half precision, beside settings and dates."""
    made = ultralytics("nn.tasks").DetectionModel("yolov5n.yaml", nc=80, verbose=False)
    torch.save({"epoch": 3, "model": made.half(), "ema": None, "train_args": {"data": Path("x")}}, tmp_path / "y.pt")
    tensors, own = read_tensors(tmp_path / "y.pt"), made.state_dict()
    assert tensors.keys() == own.keys()
    assert all(torch.equal(value, own[name].float()) for name, value in tensors.items() if value.is_floating_point())

    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"model": Hostile(), "ema": made}, tmp_path / "hostile.pt")
    read_tensors(tmp_path / "hostile.pt")
    assert not (tmp_path / "owned").exists()


class _Rebuild:
    """Pickled as torch's function that makes tensors, with a state that would be set on it."""

    def __reduce__(self):
        return (torch._utils._rebuild_tensor_v2, (), (None, {"__defaults__": (7,)}))


def test_a_checkpoint_cannot_change_torch_nor_keep_it_busy(tmp_path):
    before = torch._utils._rebuild_tensor_v2.__defaults__
    torch.save({"model": _Rebuild()}, tmp_path / "a.pt")
    with pytest.raises(WeightsError):
        read_tensors(tmp_path / "a.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before
    inner = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))
    for _ in range(60):  # as a tree, 2 to the power of 60 modules
        inner = torch.nn.Sequential(inner, inner)
    torch.save({"model": inner}, tmp_path / "b.pt")
    assert len(read_tensors(tmp_path / "b.pt")) == 2


def test_a_weights_folder_may_have_a_dot_in_its_name(trained, films, tmp_path):
    (tmp_path / "weights.v2").symlink_to(trained / "weights")
    assert starting_file("weights.v2", tmp_path).name == "model.onnx"


def test_batch_norms_without_weights_can_be_trained():
    module = torch.nn.Sequential(torch.nn.BatchNorm2d(3, affine=False), torch.nn.Conv2d(3, 1, 1)).eval()
    assert engine._trained(module).training and module[0].training


def test_the_written_configuration_trains_on_what_it_was_shown(tmp_path):
    text = starting_config([DEMO])
    (tmp_path / "mine.yaml").write_text(text)
    config = read_any(tmp_path / "mine.yaml")
    assert (config.init, config.model) == ("default", "yolov5p2n") and [item.format for item in config.data] == ["coco"]
    assert "1 image, 1 annotated: 4 blast, 10 wbc, 142 rbc, 21 platelet" in text and "0.1 µm/px" in text
    shipped = read_any(find_weights("default").parents[1] / "configs/fine-tune.yaml")
    assert config.model_dump(exclude={"name", "data"}) == shipped.model_dump(exclude={"name", "data", "val_every"}) | {
        "val_every": config.val_every
    }


def test_the_scale_that_init_is_given_is_that_of_the_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["init", str(DEMO), "--mpp", "0.25", "--out", "mine.yaml"])
    assert done.exit_code == 0, done.output
    assert "0.25 µm/px, as given" in Path("mine.yaml").read_text()
    (item,) = read_any(Path("mine.yaml")).data
    assert {sample.mpp for sample in read_data(item, tmp_path)[0]} == {(0.25, 0.25)}


def test_a_configuration_needs_annotated_images(tmp_path):
    (tmp_path / "truth.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ConfigError, match="expected at least one dataset"):
        starting_config([])
    with pytest.raises(Exception, match=r"truth\.json"):
        starting_config([tmp_path / "truth.json"])


def test_the_shipped_configuration_of_a_fine_tuning_extends_that_of_the_shipped_detector():
    folder = find_weights("default").parents[1] / "configs"
    given = yaml.safe_load((folder / "fine-tune.yaml").read_text())
    assert given["extends"] == "default.yaml" and given["init"] == "default"
