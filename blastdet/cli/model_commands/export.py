"""``blastdet export``."""

from __future__ import annotations

from pathlib import Path

import click

from blastdet.cli._printing import echo


@click.command("export", short_help="export a trained detector again, also in lower precision")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--to",
    default="onnx",
    show_default=True,
    type=click.Choice(["onnx", "openvino", "safetensors"]),
    help="File format.",
)
@click.option(
    "--precision",
    default="f32",
    show_default=True,
    type=click.Choice(["f32", "bf16", "int8"]),
    help="Numerical precision of the exported model.",
)
def command(run: Path, to: str, precision: str) -> None:
    """Export the best epoch of run folder RUN to a weights folder for `detect` and `evaluate`.

    \b
    blastdet export runs/tiny --precision int8
    blastdet detect smear.jpg --weights runs/tiny/weights-onnx-int8

    An f32 export is compared with torch on validation images, in every runtime that can run it, and rejected if a box
    differs by more than 0.5 px or a score by more than 0.001. For bf16 and int8 the change in average precision on the
    validation split is printed; int8 is calibrated on training images. The datasets of the run must be where its
    config.yaml says. bf16 needs OpenVINO. Only weights are replaced: a folder with other files is left as it is.

    `--to safetensors` takes a weights folder as RUN and adds the tensors of its ONNX model, for other programs and for
    `train --init`.

    Exit codes: 0 exported, 2 bad input, a missing package, an export that differs from torch.
    """
    from blastdet.core.packages import require

    require("train", "torch", "ultralytics", "onnx")
    if to == "openvino":
        require("openvino", "openvino")
    from blastdet.training.entry_points import export

    echo(f"weights: {export(run, to=to, precision=precision, say=echo)}")
