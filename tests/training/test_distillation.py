"""A network that learns the outputs of one that was trained before."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from blastdet.core.errors import ConfigError
from blastdet.training.classification.cnn import CropClassifier, train_network
from blastdet.training.classification.crop_samples import load_crops
from blastdet.training.classification.distillation import distillation_loss, load_teacher
from blastdet.training.config_file import read_any
from blastdet.training.loop.session import Progress

QUIET = Progress(say=lambda line: None)


@given(seed=st.integers(0, 2**16), n=st.integers(1, 5), classes=st.integers(2, 6))
def test_the_loss_is_the_divergence_of_softened_probabilities(seed, n, classes):
    rng = np.random.default_rng(seed)
    mine, theirs = rng.normal(0, 3, (2, n, classes))
    p, q = (np.exp(log_softmax(logits / 2, axis=1)) for logits in (theirs, mine))
    expected = rel_entr(p, q).sum(axis=1).mean() * 4
    assert float(distillation_loss(torch.tensor(mine), torch.tensor(theirs))) == pytest.approx(expected, abs=1e-9)
    assert float(distillation_loss(torch.tensor(mine), torch.tensor(mine + 7))) == pytest.approx(0, abs=1e-9)


def test_a_network_of_another_kind_learns_from_a_run(crops_folder, crops_run, tmp_path):
    """The teacher is frozen, adds a loss of its own, and is not part of the weights."""
    base = [f"teacher={crops_run}", "epochs=2", "model=residual-light-instance"]
    config = read_any(crops_folder / "made.yaml", base)
    teacher = load_teacher(config, crops_folder, load_crops(config, crops_folder))
    assert not any(value.requires_grad for value in teacher.parameters()) and not teacher.training
    weights = train_network(config, crops_folder, tmp_path / "run", progress=QUIET)
    assert "distillation_loss" in (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
    assert not any("teacher" in name for name in torch.load(tmp_path / "run/best.pt", weights_only=True)["ema"])
    assert (weights / "card.json").is_file()


def test_half_of_the_loss_is_the_teachers(crops_folder, crops_run):
    """A network that agrees with its teacher pays for the labels only, half as much."""
    config = read_any(crops_folder / "made.yaml", [f"teacher={crops_run}"])
    teacher = load_teacher(config, crops_folder, load_crops(config, crops_folder))
    batch = {"img": torch.rand(3, 3, 64, 64), "possible": torch.tensor([[0], [1], [0]])}
    off = torch.autocast("cpu", enabled=False)
    losses = []
    for one in (None, teacher):
        model = CropClassifier(config.model, 2, 64, one)
        model.module.load_state_dict(teacher.state_dict())
        model.module.eval()
        losses.append(float(model.loss(batch, off)[0].detach()))
    assert losses[1] == pytest.approx(losses[0] / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("side=96",), "teacher: expected a run with the same side, got 64 and 96"),
        (("seed=7",), "teacher: expected a run with the same seed, got 0 and 7"),
        (("classes=[wbc,blast]",), r"the same classes, got \['blast', 'wbc'\] and \['wbc', 'blast'\]"),
        (("label=cell_type", "classes=[blast,wbc]"), "the same label, got blast and cell_type"),
    ],
)
def test_a_teacher_that_knows_more_or_sees_other_crops_is_refused(crops_folder, crops_run, words, line):
    config = read_any(crops_folder / "made.yaml", [f"teacher={crops_run}", *words])
    data = load_crops(read_any(crops_folder / "made.yaml"), crops_folder)
    with pytest.raises(ConfigError, match=line):
        load_teacher(config, crops_folder, data)


def test_a_teacher_of_crops_that_have_changed_is_refused(crops_folder, crops_run, tmp_path):
    """The name of a folder is not enough: cut again, its split may be another one."""
    shutil.copytree(crops_folder / "made", tmp_path / "made")
    with (tmp_path / "made/crops.csv").open("a") as table:
        table.write("\n")
    config = read_any(crops_folder / "made.yaml", [f"teacher={crops_run}"])
    with pytest.raises(ConfigError, match="was trained on made, which this configuration does not use as it was"):
        load_teacher(config, tmp_path, load_crops(config, tmp_path))


def test_what_is_no_run_of_a_network_is_refused(crops_folder, crops_run, films, tmp_path):
    for name in ("config.yaml", "sources.json"):
        shutil.copy(crops_run / name, tmp_path)
    (tmp_path / "best.pt").write_bytes(b"no archive")
    config = read_any(crops_folder / "made.yaml", [f"teacher={tmp_path}"])
    with pytest.raises(ConfigError, match=r"best\.pt: missing or damaged"):
        load_teacher(config, crops_folder, load_crops(config, crops_folder))
    (tmp_path / "config.yaml").write_bytes((films / "tiny.yaml").read_bytes())
    with pytest.raises(ConfigError, match="expected a run of a network that classifies crops"):
        load_teacher(config, crops_folder, load_crops(config, crops_folder))
    with pytest.raises(ConfigError, match="teacher: is for networks"):
        read_any(crops_folder / "made.yaml", [f"teacher={tmp_path}", "folds=2"])
