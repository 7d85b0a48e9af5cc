"""``blastdet train``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("train", short_help="train a detector or classifier from a configuration")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option(
    "--data", multiple=True, type=click.Path(path_type=Path), help="Instead of CONFIG's data sets. May be repeated."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/NAME.")
@click.option("--resume", is_flag=True, help="Go on after the last whole epoch of the run folder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--init", type=click.Path(path_type=Path), help="Starting weights: safetensors, or a state dict of torch."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override an entry, e.g. epochs=10.")
def command(
    config: Path | None,
    data: tuple[Path, ...],
    out: Path | None,
    resume: bool,
    device: str,
    init: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Train a detector, or a classifier of crops, as CONFIG (YAML) says, and leave a weights folder.

    \b
    blastdet train configs/bccd-yolov5n.yaml --set epochs=20
    blastdet detect smear.jpg --weights runs/bccd-yolov5n/weights
    blastdet train --data bccd-corrected

    With --data the data sets that CONFIG names are left aside for yours, split as they say, or else by groups. The
    configuration is then that of weights/default, unless you name another.

    Nothing is downloaded: training starts from random weights, or from those of a file with --init (tensors of the same
    name and shape are taken). The run folder gets config.yaml, metrics.csv, curves.png, examples.jpg, TensorBoard
    events, checkpoints and weights/ (card.json, model.onnx). Killed at any moment, it goes on with --resume and ends as
    it would have.

    Exit codes: 0 trained, 2 bad configuration, missing data, a loss that is not finite.
    """
    from blastdet.core.extras import require

    require("train", "torch", "ultralytics", "tensorboard")
    from blastdet.cli._progress import training_reporter
    from blastdet.core.model_card import shipped
    from blastdet.training.config import ClassifyConfig, read_any
    from blastdet.training.detection.train import Progress, run_training

    if config is None and not data:
        raise click.UsageError("CONFIG or --data expected")
    config = config or shipped("configs") / "default.yaml"
    settings = read_any(config, [*overrides, *([f"init={init}"] if init else [])], data)
    run = out or Path("runs") / settings.name
    with training_reporter() as step:
        progress = Progress(click.echo, step)
        if not isinstance(settings, ClassifyConfig):
            weights = run_training(settings, Path.cwd(), run, device, resume, progress)
        elif settings.features:
            from blastdet.training.classification.sklearn_models import run_shallow

            weights = run_shallow(settings, Path.cwd(), run, device, resume, progress)
        else:
            from blastdet.training.classification.cnn import run_classifier

            weights = run_classifier(settings, Path.cwd(), run, device, resume, progress)
    click.echo(f"weights: {weights}")
