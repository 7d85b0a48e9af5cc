"""``blastdet export``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export", short_help="export a trained model anew, also in lower precision")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", default="onnx", show_default=True, type=click.Choice(["onnx", "openvino"]), help="File format.")
@click.option(
    "--precision",
    default="f32",
    show_default=True,
    type=click.Choice(["f32", "bf16", "int8"]),
    help="Of the arithmetic.",
)
def command(run: Path, to: str, precision: str) -> None:
    """Export the best epoch of the run folder RUN to a weights folder that `detect` and `evaluate` take.

    \b
    blastdet export runs/tiny --precision int8
    blastdet detect smear.jpg --weights runs/tiny/weights-onnx-int8

    f32 is compared with torch on validation pictures, in all runtimes that may run it, and refused if a box is off by
    more than 0.5 px or a score by more than 0.001. For bf16 and int8 the change of average precision on validation is
    printed; int8 is calibrated on training pictures. The data sets of the run must be where its config.yaml says.
    bf16 needs OpenVINO.

    Exit codes: 0 exported, 2 bad input, a missing package, an export that differs from torch.
    """
    from blastdet.core.extras import require

    require("train", "torch", "ultralytics", "onnx")
    if to == "openvino":
        require("openvino", "openvino")
    from blastdet.training.detection.precision import export_run

    click.echo(f"weights: {export_run(run, Path.cwd(), to, precision, click.echo)}")
