"""``blastdet calibrate``."""

from __future__ import annotations

from pathlib import Path

import click

from blastdet.cli._printing import echo


@click.command("calibrate", short_help="calibrate a blast classifier on clusters or laboratories left out of training")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folds", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Weights folder to write; default RUN/weights-calibrated.")
def command(run: Path, folds: tuple[Path, ...], out: Path | None) -> None:
    """Calibrate the blast classifier of run folder RUN on cells that its training has not seen.

    \b
    blastdet train configs/blasts/small.yaml --set folds=5   trains, and calibrates at the end
    blastdet train mine.yaml --set folds=laboratories        the same, with one fold for each laboratory
    blastdet calibrate runs/blast-small --out weights/mine   calibrates again
    blastdet calibrate runs/all runs/fold-0 runs/fold-1      with folds trained one by one

    FOLDS are run folders of the same configuration, each trained without one of n folds of clusters (fold: [k, n]) or
    without one laboratory (leave_out). Without FOLDS, those below RUN/folds are taken, as a training with folds: N or
    folds: laboratories leaves them. All folds are needed.

    The crops of each fold are classified by the model that was trained without them; with laboratories, the validation
    crops of RUN take part as well. These predictions determine the
    calibration of the blast probability, the threshold that keeps 95 % of blasts, the range of probabilities that
    counts as uncertain, and the error rates by cluster that the interval of the blast fraction takes into account. They
    are written to the card of a copy of RUN's weights, with out-of-fold figures: AUROC, sensitivity, specificity and
    accuracy with 95 % intervals from a bootstrap over clusters, and the calibration error. The model file stays the
    same.

    The folders of crops must be where the configuration says. An existing weights folder is not overwritten.

    Exit codes: 0 calibrated, 2 bad input: a missing fold, another configuration, an --out that exists.
    """
    from blastdet.core.packages import require

    require("train", "torch", "sklearn")
    from blastdet.training.entry_points import calibrate

    echo(f"weights: {calibrate(run, folds, out=out, say=echo)}")
