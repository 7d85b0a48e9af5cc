"""``blastdet train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import reading_options
from blastdet.cli._printing import echo


@click.command("train", short_help="train a detector or classifier from a configuration")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--data", multiple=True, type=click.Path(path_type=Path), help="Replaces CONFIG's datasets. Repeatable.")
@click.option("--from", "format", help="Format of DATA.  [default: auto]")
@reading_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/NAME.")
@click.option("--resume", is_flag=True, help="Continue after the last finished epoch of the run folder.")
@click.option("--allow-version-change", is_flag=True, help="Resume also with another version of blastdet.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--init", help="Starting weights: default, another weights folder, or a file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override an entry, e.g. epochs=10.")
def command(
    config: Path | None,
    data: tuple[Path, ...],
    out: Path | None,
    resume: bool,
    allow_version_change: bool,
    device: str,
    init: str | None,
    overrides: tuple[str, ...],
    **reading: Any,
) -> None:
    """Train a detector, or a classifier of crops, from CONFIG (YAML), and write a weights folder.

    \b
    blastdet train configs/bccd-yolov5n.yaml --set epochs=20
    blastdet detect smear.jpg --weights runs/bccd-yolov5n/weights
    blastdet train --data my-cells --init default
    blastdet train configs/blasts/small.yaml --set folds=5

    With --data, your datasets replace those of CONFIG. They are split as they say, or else by groups. CONFIG is then
    the configuration of weights/default, unless you give another; with --init, that of a fine-tuning.

    Nothing is downloaded: training starts from random weights, or with --init from those of a weights folder or a file
    (tensors of the same name and shape are used). If no epoch is better than they are, they are kept. The run folder
    gets config.yaml, metrics.csv, curves.png, examples.jpg, TensorBoard events, checkpoints and weights/ (card.json,
    model.onnx). A run that was killed continues with --resume and gives the same result as an uninterrupted one.
    --resume refuses another version of blastdet than the run was started with, and notes other versions of libraries.

    A classifier of blasts with folds: N is trained on all crops, then N times without one fold of clusters, and
    calibrated on the cells left out: see `blastdet calibrate --help`.

    Exit codes: 0 trained, 2 bad configuration, missing data, a loss that is not finite.
    """
    from blastdet.core.packages import require

    require("train", "torch", "ultralytics", "tensorboard", "albumentations")
    from blastdet.cli._progress import training_reporter
    from blastdet.training.entry_points import TrainOptions, train
    from blastdet.training.loop.session import Progress

    if config is None and not data:
        raise click.UsageError("Expected CONFIG or --data.")
    given = {name: str(value) if name == "images" else value for name, value in reading.items() if value is not None}
    kind = given.pop("format", None)
    if (given or kind) and not data:
        raise click.UsageError(
            "Expected --data with --from, --images, --map or --annotated. In CONFIG, set them for each of the data."
        )
    for_each = [f"data.{i}.options={json.dumps(given)}" for i in range(len(data)) if given]
    for_each += [f"data.{i}.format={json.dumps(kind)}" for i in range(len(data)) if kind]
    with training_reporter() as step:
        weights = train(
            config,
            out=out,
            data=data,
            set=[*for_each, *overrides, *([f"init={init}"] if init else [])],
            resume=resume,
            options=TrainOptions(device, allow_version_change, Progress(echo, step)),
        )
    echo(f"weights: {weights}")
