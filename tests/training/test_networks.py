"""Our own networks for crops, and the loss for crops that may have one of several classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from blastdet.core.errors import ConfigError
from blastdet.training.classification.networks import last_linear, masked_cross_entropy, network


@pytest.mark.parametrize(
    "name", ["small", "residual", "residual-light", "residual-light-batch", "residual-light-instance"]
)
def test_our_networks_take_any_side_and_end_with_a_linear_layer(name: str) -> None:
    torch.manual_seed(0)
    made = network(name, 9).eval()
    with torch.no_grad():
        assert [tuple(made(torch.zeros(2, 3, side, side)).shape) for side in (32, 96)] == [(2, 9), (2, 9)]
    assert last_linear(made)[1].out_features == 9


def test_group_normalisation_depends_on_no_other_crop() -> None:
    torch.manual_seed(0)
    made = network("residual", 3).train()
    made[9].p = 0.0  # dropout
    one, other = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64) * 5
    torch.testing.assert_close(made(torch.cat([one, other]))[:1], made(one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_efficientnet"])
def test_networks_of_timm_are_built_for_the_side(name: str) -> None:
    made = network(name, 9, 96).eval()
    with torch.no_grad():
        assert tuple(made(torch.zeros(2, 3, 96, 96)).shape) == (2, 9)
    assert last_linear(made)[1].out_features == 9


def test_a_network_that_timm_lacks_is_one_line() -> None:
    with pytest.raises(ConfigError, match="or timm/NAME, got timm/nothing"):
        network("timm/nothing", 2)


def test_an_unknown_network_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"expected small, .*, a classifier of torchvision, or timm/NAME, got nothing"
    ):
        network("nothing", 2)


def test_the_loss_of_known_classes_is_cross_entropy() -> None:
    torch.manual_seed(1)
    logits, label = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    possible = functional.one_hot(label, 4).bool()
    expected = functional.cross_entropy(logits, label, label_smoothing=0.1)
    torch.testing.assert_close(masked_cross_entropy(logits, possible, 0.1), expected)


def test_the_loss_of_several_possible_classes_is_that_of_their_sum() -> None:
    probability = np.array([[0.5, 0.3, 0.2]])
    logits, possible = torch.from_numpy(np.log(probability)), torch.tensor([[False, True, True]])
    assert masked_cross_entropy(logits, possible, 0.0).item() == pytest.approx(-np.log(0.5))
    whole = torch.tensor([[True, True, True]])
    assert masked_cross_entropy(logits, whole, 0.0).item() == pytest.approx(0, abs=1e-12)
