"""Exports of a finished run to other formats or to lower precision, with the change in average precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from blastdet.core import boxes
from blastdet.core.atomic_io import locked, write_error
from blastdet.core.errors import BlastdetError, ConfigError, last_line
from blastdet.core.model_card import Card, read_card, sha256_of, write_card
from blastdet.core.types import Dataset, Detections
from blastdet.evaluation.average_precision import average_precision
from blastdet.models.detector import load_detector
from blastdet.models.onnx_detector import padded_size, to_blob
from blastdet.training.config import TrainConfig
from blastdet.training.config_file import read_config
from blastdet.training.detection.export import PARITY, check_parity, finish, raw_on_cpu
from blastdet.training.detection.samples import TrainingImage, load_image
from blastdet.training.detection.train import build
from blastdet.training.detection.training_data import Data, load_data
from blastdet.training.loop import checkpoints, engine
from blastdet.training.loop.run_folder import CONFIG, WEIGHTS, check_sources, new_weights

_CALIBRATION = 32  # training images that determine the value ranges between layers for int8


def export_run(run: Path, base: Path, to: str, precision: str, say: Callable[[str], None]) -> Path:
    """Export the best epoch of a run; returns the weights folder.

    ONNX in f32 is written to ``weights``, as at the end of a training; other exports are made from it and written to
    ``weights-FORMAT-PRECISION``. Raises `BlastdetError` if the run, its data or a package is missing, or an f32 export
    differs from torch.

    Parameters
    ----------
    base : Path
        Folder that paths in its configuration are relative to.
    say : callable
        Receives lines about parity and average precision.
    """
    if (to, precision) == ("onnx", "bf16"):
        raise ConfigError("--precision bf16: not supported by ONNX Runtime on CPUs; use --to openvino")
    config = read_config(run / CONFIG)
    data = load_data(config, base)
    check_sources(run, data.fingerprints)
    with locked(run):
        state = _last(config, run)
        if (to, precision) == ("onnx", "f32") or not _is_of(run / WEIGHTS, state):
            finish(config, data, state, run, say)
        if (to, precision) == ("onnx", "f32"):
            return run / WEIGHTS
        name = f"{WEIGHTS}-{to}-{precision}"
        with new_weights(run, name) as folder:
            _convert(run / WEIGHTS, folder, (to, precision), data, config)
            if precision == "f32":
                state = checkpoints.load_best(_last(config, run), run)  # loaded again: an export changes the module
                images = [load_image(sample, config) for sample in data.val.samples[:PARITY]]
                say(check_parity(folder, images, raw_on_cpu(state, images, read_card(folder))))
            say(compare(run / WEIGHTS, folder, data.val, config))
    return run / name


def _last(config: TrainConfig, run: Path) -> engine.State[engine.Trainable]:
    return checkpoints.resume(engine.start(build(config), config, torch.device("cpu")), run)


def _is_of(weights: Path, state: engine.State[Any]) -> bool:
    """Whether a weights folder is that of the best epoch so far; the run may have been resumed since."""
    return (weights / "card.json").is_file() and read_card(weights).training.epochs == state.best_epoch


def _convert(whole: Path, folder: Path, wanted: tuple[str, str], data: Data, config: TrainConfig) -> None:
    """Model and card of a weights folder in another format or precision; see `export_run`."""
    (to, precision), card, source = wanted, read_card(whole), whole / "model.onnx"
    try:
        if precision == "int8":
            shown = [load_image(sample, config) for sample, _ in data.train[:_CALIBRATION]]
            quantise(source, folder / "model.onnx", shown, card)
            source = folder / "model.onnx"
        if to == "openvino":
            _to_openvino(source, folder)
    except BlastdetError:
        raise
    except Exception as error:  # converters raise errors of any kind, also on a full disk
        raise write_error(folder, last_line(error)) from error
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    changes = {"name": f"{card.name}-{to}-{precision}", "format": to, "precision": precision, "files": files}
    write_card(Card.model_validate({**card.model_dump(), **changes, "metrics": ()}), folder)


def quantise(source: Path, target: Path, images: Sequence[TrainingImage], card: Card) -> None:
    """Quantise convolutions to int8 (ONNX, quantise and dequantise nodes); box decoding and the rest stay in f32."""
    import onnx
    from onnxruntime import quantization

    class CalibrationImages(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.blobs = _blobs(images, card)

        def get_next(self) -> Any:
            return next(self.blobs, None)

    model = onnx.load(source)
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # else it warns on every call
    quantization.quantize_static(
        model,
        target,
        CalibrationImages(),
        op_types_to_quantize=["Conv"],
        per_channel=True,
        reduce_range=True,  # 7-bit weights: with 8 bits, processors without VNNI overflow
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def _blobs(images: Sequence[TrainingImage], card: Card) -> Iterator[dict[str, Any]]:
    for image in images:
        size = padded_size(image.rgb.shape[:2], card.input.stride)
        yield {"images": to_blob(image.rgb, size, card.input)[None]}


def _to_openvino(source: Path, folder: Path) -> None:
    """``model.xml`` and ``model.bin`` in place of the ONNX file."""
    import openvino

    model = openvino.convert_model(source)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    (folder / "model.onnx").unlink(missing_ok=True)


def compare(whole: Path, other: Path, dataset: Dataset, config: TrainConfig) -> str:
    """One line: average precision on the validation split before and after."""
    images = [load_image(sample, config) for sample in dataset]
    before, after = (average_precision(dataset, _found(folder, images, dataset)) for folder in (whole, other))
    parts = []
    for name in (None, *(n for n, count in before.n_truth.items() if count)):
        old, new = before.figures(name), after.figures(name)
        for figure in ("AP", "AP50") if name is None else ("AP50",):
            change = new[figure] - old[figure]
            parts.append(f"{name or 'all'} {figure} {old[figure]:.4f} -> {new[figure]:.4f} ({change:+.4f})")
    return f"validation, {len(dataset)} images: {', '.join(parts)}"


def _found(folder: Path, images: Sequence[TrainingImage], dataset: Dataset) -> list[Detections]:
    """Detections of a weights folder, in pixels of the full images."""
    detector = load_detector(folder, "cpu")
    results = []
    for image, sample in zip(images, dataset, strict=True):
        cells = detector([image.rgb])[0]
        height, width = image.rgb.shape[:2]
        factor = (sample.size_wh[0] / width, sample.size_wh[1] / height)
        results.append(cells.with_columns(boxes_xyxy=boxes.scale(cells.boxes_xyxy, factor)))
    return results
