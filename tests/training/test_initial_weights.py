"""Starting weights from files, good and hostile."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v3_large

from blastdet.core.errors import WeightsError
from blastdet.core.model_card import find_weights, read_card, shipped, write_card
from blastdet.models.fake_detector import fake_card
from blastdet.training.classification.networks import network
from blastdet.training.config_file import read_config
from blastdet.training.detection.faster_rcnn import FasterRcnn
from blastdet.training.detection.train import build
from blastdet.training.loop.initial_weights import (
    TENSORS,
    has_merged_norms,
    read_tensors,
    spread_batch_norms,
    starting_file,
    take_weights,
    write_tensors,
)


def _module(classes=3):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1))


def _lying(path, **changes):
    """A safetensors file of one tensor, as the format has it: length of the header, header, data."""
    header = {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | changes}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pt", "best.pt"])
def test_every_matching_tensor_is_used(kind, tmp_path):
    source, target = _module(classes=2), _module(classes=3)
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save({"ema": source.state_dict(), "epoch": 3} if kind == "best.pt" else source.state_dict(), path)
    head = target[2].weight.clone()
    line = take_weights(target, path)
    assert line == f"weights.{kind}: 7 of the model's 9 tensors initialised, from 9 in the file"
    torch.testing.assert_close(target[0].weight, source[0].weight)
    torch.testing.assert_close(target[2].weight, head)


def test_a_backbone_file_initialises_faster_rcnn(tmp_path):
    body = mobilenet_v3_large(weights=None)
    torch.save(body.state_dict(), tmp_path / "body.pt")
    model = FasterRcnn("fasterrcnn_mobilenet", 3, 0.2)
    own = len(model.module.state_dict())
    features = len(body.features.state_dict())
    assert f"{features} of the model's {own} tensors" in take_weights(model.module, tmp_path / "body.pt")
    torch.testing.assert_close(model.module.backbone.body["0"][0].weight, body.features[0][0].weight)


def test_the_backbone_of_a_self_supervised_transformer_is_resampled_to_the_side(tmp_path):
    """As DinoBloom is published: a teacher's backbone, trained on larger images, and no last layer."""
    source, target = network("timm/test_vit", 9, 160), network("timm/test_vit", 3, 96)
    state = {f"backbone.{name}": value for name, value in source.state_dict().items() if not name.startswith("head.")}
    torch.save({"teacher": state | {"dino_head.weight": torch.zeros(3)}}, tmp_path / "dino.pth")
    line = take_weights(target, tmp_path / "dino.pth")
    own = len(target.state_dict())
    assert line.startswith(f"dino.pth: {own - 2} of the model's {own} tensors initialised")
    torch.testing.assert_close(target.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    before, after = source.pos_embed, target.pos_embed
    torch.testing.assert_close(after[:, 0], before[:, 0])  # the class token is kept
    torch.testing.assert_close(after[:, 1:].mean(), before[:, 1:].mean(), rtol=0.2, atol=5e-3)


def test_layers_of_other_names_in_the_same_order_are_used(tmp_path):
    source, target = _module(classes=5), _module(classes=3)
    renamed = {f"layer_{number}": value for number, value in enumerate(source.state_dict().values())}
    torch.save(renamed, tmp_path / "other.pth")
    assert "7 of the model's 9 tensors initialised" in take_weights(target, tmp_path / "other.pth")
    torch.testing.assert_close(target[0].weight, source[0].weight)
    torch.save(dict(list(renamed.items())[1:]), tmp_path / "fewer.pth")
    with pytest.raises(WeightsError, match="none of its 8 tensors matches"):
        take_weights(_module(), tmp_path / "fewer.pth")


class _Hostile:
    def __reduce__(self):
        return (open, ("/nonexistent/owned", "w"))


def test_a_hostile_pickle_is_one_line_and_is_not_run(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"model": _Hostile()}, path)
    with pytest.raises(WeightsError, match=r"evil\.pt: has more than tensors"):
        take_weights(_module(), path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Hostile()))
    with pytest.raises(WeightsError, match=r"plain\.pt"):
        take_weights(_module(), tmp_path / "plain.pt")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("x.safetensors", b"", "damaged"),
        ("x.safetensors", (10**9).to_bytes(8, "little") + b"{}", "damaged"),
        ("x.safetensors", (2).to_bytes(8, "little") + b"[]", "damaged"),
        ("x.safetensors", (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc", "damaged"),
        ("x.pt", b"not a model", "x.pt"),
        ("x.pt", b"", "x.pt"),
    ],
)
def test_broken_files_are_one_line(name, content, line, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=line) as error:
        take_weights(_module(), tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"data_offsets": [0, 10**6]}, {"data_offsets": [-4, 0]}, {"shape": [10**6]}, {"dtype": "X"}]
)
def test_a_wrong_header_is_one_line(changes, tmp_path):
    assert read_tensors(_lying(tmp_path / "x.safetensors"))["a"].tolist() == [0, 0, 0]
    with pytest.raises(WeightsError, match="not a safetensors file, or damaged"):
        read_tensors(_lying(tmp_path / "x.safetensors", **changes))


def test_a_missing_file_and_one_without_matching_tensors(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        take_weights(_module(), tmp_path / "none.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="none of its 1 tensors"):
        take_weights(_module(), tmp_path / "other.pt")


class _Normed(nn.Module):
    """A convolution with its batch norm, named as YOLO names them."""

    def __init__(self, merged):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=merged)
        self.bn = nn.Identity() if merged else nn.BatchNorm2d(4)

    def forward(self, images):
        return self.bn(self.conv(images))


def _exported(tmp_path):
    """An ONNX file whose initializers are those of a merged convolution, and that convolution."""
    import onnx
    from onnx import TensorProto, helper
    from onnx.numpy_helper import from_array

    module = _Normed(merged=True)
    torch.nn.init.normal_(module.conv.bias)
    constants = [from_array(value.numpy(), name) for name, value in module.state_dict().items()]
    shape = helper.make_tensor_value_info("images", TensorProto.FLOAT, None)
    graph = helper.make_graph([], "g", [shape], [shape], constants)
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    return tmp_path / "model.onnx", module


def test_an_onnx_file_with_merged_batch_norms_computes_the_same(tmp_path):
    path, merged = _exported(tmp_path)
    module = _Normed(merged=False)
    assert take_weights(module, path).startswith("model.onnx: 5 of the model's 6 tensors initialised")
    images = torch.randn(8, 3, 9, 9) * 3 + 1
    torch.testing.assert_close(module.eval()(images), merged(images))


def test_spread_batch_norms_keep_the_output_and_survive_training_mode(tmp_path):
    path, merged = _exported(tmp_path)
    module = _Normed(merged=False)
    take_weights(module, path)
    images = torch.randn(16, 3, 9, 9) * 3 + 1
    far = (module.train()(images) - merged(images)).abs().max()
    take_weights(module, path)
    spread_batch_norms(module, images)
    assert module.training
    near = (module(images) - merged(images)).abs().max()
    torch.testing.assert_close(module.eval()(images), merged(images), atol=1e-4, rtol=1e-4)
    assert near < 0.05 < far


def test_a_damaged_onnx_file_is_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match=r"model\.onnx: (not an ONNX file|expected a state dict)"):
        take_weights(_module(), tmp_path / "model.onnx")


def test_tensors_beside_a_model_start_the_same_training(tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(find_weights("default"), folder)
    (folder / TENSORS).unlink(missing_ok=True)
    card = read_card(find_weights("default"))
    write_card(card.model_copy(update={"files": {"model.onnx": card.files["model.onnx"]}}), folder)
    onnx_file = starting_file(str(folder), tmp_path)
    assert write_tensors(folder) == folder / TENSORS == starting_file(str(folder), tmp_path)
    assert set(read_card(folder).files) == {"model.onnx", TENSORS}
    config = read_config(shipped("configs") / "default.yaml")
    one, other = build(config), build(config)
    take_weights(one.module, onnx_file)
    take_weights(other.module, folder / TENSORS)
    for name, value in one.module.state_dict().items():
        torch.testing.assert_close(other.module.state_dict()[name], value)
    assert has_merged_norms(folder / TENSORS)


def test_tensors_of_a_folder_without_an_onnx_model_are_refused(tmp_path):
    write_card(fake_card(), tmp_path)
    with pytest.raises(WeightsError, match="expected an ONNX model, got"):
        write_tensors(tmp_path)
