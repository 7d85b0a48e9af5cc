"""Short trainings that each leave a laboratory out."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from blastdet.training.classification.crop_samples import CropEpoch, load_crops
from blastdet.training.classification.trial import TrialCells, run_trial
from blastdet.training.config_file import read_any
from blastdet.training.loop.session import Progress


@pytest.fixture
def two_laboratories(crops_folder, tmp_path):
    """The same crops in two folders, as if from two laboratories, and their configuration."""
    for name in ("here", "there"):
        shutil.copytree(crops_folder / "made", tmp_path / name)
    data = '[{"path": "here", "laboratory": "a"}, {"path": "there", "laboratory": "b"}]'
    return tmp_path, read_any(crops_folder / "made.yaml", [f"data={data}", "epochs=4"])


def test_cells_of_the_laboratory_left_out_are_ranked(two_laboratories):
    folder, config = two_laboratories
    trial = run_trial(config, "a", folder, folder / "run", Progress(say=lambda line: None))
    assert len(trial.left_out.is_blast) == 40 and trial.left_out.is_blast.sum() == 20
    assert {name.split("/")[0] for name in trial.left_out.smear} == {"here"}
    assert {name.split("/")[0] for name in trial.trained_on.smear} == {"there"}
    found = trial.aurocs()
    assert found["network"] > 0.95 and found["plain"] > 0.95  # made cells are easy
    assert set(found) == {"network", "bank", "plain", "relative"}


def test_relative_features_do_not_change_with_the_smear():
    rng = np.random.default_rng(0)
    smear = np.array(["a"] * 5 + ["b"] * 5)
    cells = TrialCells(np.zeros(10), rng.normal(size=(10, 3)), np.zeros(10, bool), smear)
    shifted = replace(cells, features=cells.features + np.where(smear == "a", 4.0, -2.0)[:, None])
    np.testing.assert_allclose(shifted.relative, cells.relative)


def test_grey_samples_keep_their_density_and_lose_their_colour(crops_folder):
    base = ["augment.stain=0", "augment.photometric=0"]
    plain, grey = (read_any(crops_folder / "made.yaml", [*base, f"augment.grey={p}"]) for p in (0, 1))
    crops = load_crops(plain, crops_folder).train
    ratio = []
    for i in range(8):
        one, other = (CropEpoch(crops, config, 0)[i].rgb.astype(float) for config in (plain, grey))
        ratio.append(np.ptp(other, axis=2).mean() / np.ptp(one, axis=2).mean())
    assert max(ratio) < 0.75


def test_a_trial_with_starting_weights_keeps_its_last_epoch(two_laboratories, crops_run):
    """Another trial may learn from it: what it keeps must not be the start."""
    folder, config = two_laboratories
    config = config.model_copy(update={"init": str(crops_run / "best.pt"), "epochs": 1})
    run_trial(config, "a", folder, folder / "run", Progress(say=lambda line: None))
    best, last = (torch.load(folder / f"run/{name}.pt", weights_only=True)["ema"] for name in ("best", "last"))
    assert all(torch.equal(best[name], last[name]) for name in best)
