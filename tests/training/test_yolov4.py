"""YOLOv4's backbone and neck against the paper (arXiv:2004.10934) and its authors' configuration; YOLO26's head."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from blastdet.training.detection.yolo_network import Yolo

# name: width, residual blocks, width inside the stage (the first one is not halved), width inside its blocks
STAGES = {1: (64, 1, 64, 32), 2: (128, 2, 64, 64), 3: (256, 8, 128, 128), 4: (512, 8, 256, 256), 5: (1024, 4, 512, 512)}


@pytest.fixture(scope="module")
def layers():
    return list(Yolo("yolov4l", 80).module.model)


def _conv(layer):
    """Kernel, stride, channels in and out of a convolution with its normalisation and activation."""
    assert isinstance(layer.act, nn.Mish) and isinstance(layer.bn, nn.BatchNorm2d)
    conv = layer.conv
    return conv.kernel_size[0], conv.stride[0], conv.in_channels, conv.out_channels


def test_the_backbone_is_cspdarknet53(layers):
    assert _conv(layers[0]) == (3, 1, 3, 32)
    before = 32
    for number, (width, depth, inside, narrow) in STAGES.items():
        down, skip, through, blocks, after, join, out = layers[7 * number - 6 : 7 * number + 1]
        assert _conv(down) == (3, 2, before, width)
        assert _conv(skip) == _conv(through) == (1, 1, width, inside)
        assert skip.f == -1 and through.f == down.i, "both parts see the same map"
        blocks = [blocks] if depth == 1 else list(blocks)
        assert len(blocks) == depth
        for block in blocks:
            assert block.add, "residual"
            assert (_conv(block.cv1), _conv(block.cv2)) == ((1, 1, inside, narrow), (3, 1, narrow, inside))
        assert _conv(after) == (1, 1, inside, inside)
        assert join.f == [-1, skip.i]
        assert _conv(out) == (1, 1, 2 * inside, width)
        before = width


def test_the_neck_is_spp_and_panet(layers):
    spp = layers[38]
    assert [pool.kernel_size for pool in spp.m] == [5, 9, 13] and all(pool.stride == 1 for pool in spp.m)
    around = [_conv(layers[i]) for i in (36, 37, 39, 40)]
    assert around == [(1, 1, 1024, 512), (3, 1, 512, 1024), (3, 1, 512, 1024), (1, 1, 1024, 512)]
    assert (_conv(spp.cv1), _conv(spp.cv2)) == ((1, 1, 1024, 512), (1, 1, 2048, 512))
    out_of_stage = {stage: 7 * stage for stage in STAGES}
    top_down = {41: (4, 256, 512), 50: (3, 128, 256)}  # first layer: stage joined, width, width before
    for first, (stage, width, before) in top_down.items():
        narrow, up, lateral, join, *five = layers[first : first + 9]
        assert _conv(narrow) == (1, 1, before, width) and up.scale_factor == 2
        assert lateral.f == out_of_stage[stage] and _conv(lateral) == (1, 1, 2 * width, width)
        assert join.f == [-1, up.i]
        _five(five, width)
    bottom_up = {59: (49, 256), 66: (40, 512)}  # first layer: map joined, width
    for first, (joined, width) in bottom_up.items():
        down, join, *five = layers[first : first + 7]
        assert _conv(down) == (3, 2, width // 2, width) and join.f == [-1, joined]
        _five(five, width)
    assert layers[73].f == [58, 65, 72] and [int(s) for s in layers[73].stride] == [8, 16, 32]
    assert len(layers) == 74


def _five(convolutions, width):
    shapes = [_conv(layer) for layer in convolutions]
    wide = 2 * width
    assert shapes == [(1, 1, wide, width), *[(3, 1, width, wide), (1, 1, wide, width)] * 2]


def test_sizes(layers):
    def millions(name):
        return sum(p.numel() for p in Yolo(name, 80).module.parameters()) / 1e6

    whole = sum(p.numel() for layer in layers for p in layer.parameters()) / 1e6
    assert whole == pytest.approx(64, rel=0.1)
    n, s, m = (millions(f"yolov4{scale}") for scale in "nsm")
    assert n < s < m < whole


def test_other_models_keep_their_activation():
    Yolo("yolov4n", 3)
    assert isinstance(Yolo("yolov5n", 3).module.model[0].act, nn.SiLU)


def test_yolo26_learns_with_one_head_and_what_is_unknown_does_not_reach_it(yolo_batch):
    model = Yolo("yolo26n", 3).to(torch.device("cpu"))
    model.module.train()
    known = np.ones((3, 12, 12), bool)
    known[1] = False
    total, parts = model.loss(yolo_batch(known), torch.autocast("cpu", enabled=False))
    total.backward()
    assert set(parts) == {"box_loss", "cls_loss", "l1_loss"}
    assert all(parameter.grad is not None for parameter in model.module.parameters())
    for branch in model.module.model[-1].cv3:
        gradient = branch[-1].weight.grad
        assert gradient[1].abs().max() == 0
        assert gradient[0].abs().max() > 0 and gradient[2].abs().max() > 0


@pytest.mark.parametrize("name", ["yolov4n", "yolo26n"])
def test_the_export_gives_every_anchor_as_torch_does(name, tmp_path):
    torch.manual_seed(0)
    model = Yolo(name, 3).to(torch.device("cpu"))
    model.module.eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = model.module(images)[0].numpy()
    assert expected.shape == (2, 7, 8 * 12 + 4 * 6 + 2 * 3)
    model.export(tmp_path / "model.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-3)
