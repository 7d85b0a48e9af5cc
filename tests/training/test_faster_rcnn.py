"""Faster R-CNN: unknown regions are not background, any image size works, and the export equals torch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torchvision.models.detection.roi_heads import fastrcnn_loss

from blastdet.training.detection.faster_rcnn import ANCHORS_UM, FasterRcnn, _head_losses, _unknown
from blastdet.training.detection.samples import KNOWN_STRIDE, TrainingSample

OFF = torch.autocast("cpu", enabled=False)
ALL = np.ones((3, 96 // KNOWN_STRIDE, 96 // KNOWN_STRIDE), bool)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return FasterRcnn("fasterrcnn_mobilenet", 3, 0.2).to(torch.device("cpu"))


def _batch(known, boxes=((20, 20, 60, 60),)):
    rgb = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    sample = TrainingSample(rgb, xyxy, np.zeros(len(xyxy), np.int64), known)
    return FasterRcnn.collate([sample, sample])


def test_unknown_equals_a_plain_loop():
    rng = np.random.default_rng(1)
    known = torch.from_numpy(rng.random((3, 12, 10)) > 0.05)
    corners = rng.uniform(-1, 13, (200, 2, 2)) * KNOWN_STRIDE
    boxes = torch.from_numpy(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)).float()
    found = _unknown(boxes, known).numpy()
    for box, row in zip(boxes.numpy() / KNOWN_STRIDE, found, strict=True):
        x1, y1 = np.clip(np.floor(box[:2]).astype(int), 0, (9, 11))
        x2, y2 = np.clip(np.ceil(box[2:]).astype(int), 1, (10, 12))
        window = known[:, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)].numpy()
        np.testing.assert_array_equal(row, (~window).any(axis=(1, 2)))


def test_second_stage_with_all_known_is_torchvisions_loss():
    torch.manual_seed(1)
    logits, offsets, label, wanted = torch.randn(20, 4), torch.randn(20, 16), torch.arange(20) % 4, torch.randn(20, 4)
    ours = _head_losses(logits, offsets, label, wanted, torch.zeros(20, 3, dtype=torch.bool))
    theirs = fastrcnn_loss(logits, offsets, [label], [wanted])
    torch.testing.assert_close(tuple(ours.values()), theirs)


def test_background_does_not_lower_an_unknown_class():
    logits = torch.zeros(8, 4, requires_grad=True)
    unknown = torch.zeros(8, 3, dtype=torch.bool)
    unknown[:, 1] = True
    nothing = torch.zeros(8, dtype=torch.long)
    _head_losses(logits, torch.zeros(8, 16), nothing, torch.zeros(8, 4), unknown)["cls_loss"].backward()
    background, first, second, third = logits.grad[0].tolist()
    assert background < 0 and second < 0 < first and third > 0


def test_unknown_images_have_no_gradient(model):
    model.module.train()
    model.module.zero_grad()
    total, parts = model.loss(_batch(~ALL, ()), OFF)
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-5) and set(parts) == {
        "objectness_loss",
        "proposal_loss",
        "cls_loss",
        "box_loss",
    }
    assert max(float(p.grad.abs().max()) for p in model.module.parameters() if p.grad is not None) < 1e-5


def test_anchors_on_the_unknown_are_dropped_and_cells_stay(model):
    rpn, known = model.module.rpn, torch.from_numpy(ALL.copy())
    known[2, :, 48 // KNOWN_STRIDE :] = False  # one class, right half
    anchors = torch.tensor([[0.0, 0, 20, 20], [60, 60, 80, 80], [20, 20, 60, 60], [40, 0, 56, 16]])
    target = {"boxes": torch.tensor([[20.0, 20, 60, 60]]), "known": known}
    labels, _ = rpn.assign_targets_to_anchors([anchors], [target])
    assert labels[0].tolist() == [0, -1, 1, -1]


def test_every_layer_learns(model):
    model.module.train()
    model.module.zero_grad()
    total, _ = model.loss(_batch(ALL), OFF)
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.module.parameters())


def test_anchors_are_cells_at_any_scale():
    for mpp in (0.1, 0.4):
        anchors = FasterRcnn("fasterrcnn_mobilenet", 3, mpp).module.rpn.anchor_generator
        sides = [(a[:, 2:] - a[:, :2]).prod(dim=1).sqrt() * mpp for a in anchors.cell_anchors]
        for level, expected in zip(sides, ANCHORS_UM, strict=True):
            assert float(level.min()) == pytest.approx(expected[0], rel=0.25)
            assert float(level.max()) == pytest.approx(expected[1], rel=0.25)


def test_the_export_is_torch_at_any_size(tmp_path):
    torch.manual_seed(0)
    model = FasterRcnn("fasterrcnn_mobilenet", 3, 0.2).to(torch.device("cpu"))
    torch.nn.init.normal_(model.module.rpn.head.cls_logits.weight, std=5.0)  # untrained, proposals are nearly tied
    model.module.eval()
    model.export(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for height, width in ((96, 128), (160, 64), (224, 256)):
        image = torch.rand(1, 3, height, width)
        with torch.no_grad():
            expected = model.module(image).numpy()
        found = session.run(None, {"images": image.numpy()})[0]
        assert found.shape == expected.shape and found.shape[1] == 7
        nearest = np.abs(expected[:, None] - found[None]).max(axis=2).min(axis=1)
        assert (nearest < 1e-2).mean() > 0.99, "all but ties at the edge of suppression"


def test_resnet_trains_a_step():
    model = FasterRcnn("fasterrcnn_resnet50", 2, 0.2).to(torch.device("cpu"))
    model.module.train()
    total, _ = model.loss(_batch(ALL[:2]), OFF)
    total.backward()
    assert torch.isfinite(total)
