"""``blastdet adapt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import Mpp, reading_options
from blastdet.cli._printing import echo

_PATH = click.Path(path_type=Path)


@click.command("adapt", short_help="fit the second stage to cells of your own laboratory")
@click.option("--data", type=_PATH, required=True, help="Reviewed cells: a dataset, or a folder of crops; see above.")
@click.option("--out", type=_PATH, required=True, help="Weights folder to write.")
@click.option("--corrections", type=_PATH, help="Corrections of DATA, JSON Lines. Only their cells are used.")
@click.option("--weights", default="default", show_default=True, help="Model to adapt: a name or a weights folder.")
@click.option("--from", "format", default="auto", show_default=True, help="Format of DATA.")
@reading_options
@click.option("--mpp", type=Mpp("data", "auto"), default="data", show_default=True, help="µm per pixel of the images.")
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda.")
@click.option("--overwrite", is_flag=True, help="Replace weights in OUT.")
def command(data: Path, out: Path, corrections: Path | None, weights: str, **options: Any) -> None:
    """Fit the second stage to 20 to 100 reviewed white cells of your own laboratory.

    \b
    DATA is one of
      - a dataset with boxes of blasts and other white cells, in any format that blastdet reads. With --corrections,
        as a review exports them, only cells that a person corrected or confirmed are used;
      - a folder that blastdet crops wrote;
      - images of one cell each, in folders named after cell types: blast/SMEAR/1.png, lymphocyte/SMEAR/1.png.
        These need --mpp.

    What is fitted is what helps on smears that are left out of the fit: an offset of the blast probability (which
    moves the threshold), slope and offset, or a last layer on the features of the network. Blasts and other cells have
    equal weight. The change stays small where little speaks for more. If nothing is better than the model as it is,
    nothing is written, and the exit code is 2. Ten cells are needed at least, five blasts and five others among them;
    better are 50 from five smears or more.

    OUT is a copy of the detector, and OUT-second-stage beside it one of the second stage, whose card lists the number
    of cells of each smear and the figures before and after. The names of smears are in it: use no names of patients.

    \b
    Examples:
      blastdet adapt --data reviewed/truth.json --out weights/mine
      blastdet adapt --data films --from images --corrections corrections.jsonl --out weights/mine
      blastdet adapt --data mine --mpp 0.1 --out weights/mine
      blastdet detect smear.jpg --weights weights/mine

    Exit codes: 0 adapted, 2 bad input, too few cells, or adapting does not help. Research use only.
    """
    from blastdet.cli._progress import phase_reporter
    from blastdet.inference.adaptation.adapt import AdaptOptions, adapt

    with phase_reporter() as step:
        reading = {name: options.pop(name) for name in ("class_map", "annotated")}
        settings = AdaptOptions(progress=step, reading_options=reading, **options)
        adapt(data, out=out, corrections=corrections, weights=weights, options=settings, say=echo)
