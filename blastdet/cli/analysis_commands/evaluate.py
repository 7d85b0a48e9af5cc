"""``blastdet evaluate``: any model, or anyone's detections, against the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from blastdet.cli._options import Number

if TYPE_CHECKING:
    from blastdet.core.types import Dataset, Scale
    from blastdet.evaluation.evaluate import Predictions

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Asked:
    """What the user asked for, word for word."""

    data: Path
    format: str
    split: str
    weights: tuple[str, ...]
    detections: tuple[Path, ...]
    out: Path
    images: Path | None
    other: Path | None
    corrections: Path | None
    mpp: str
    device: str
    threshold: float | None
    max_dets: int


@click.command()
@click.option(
    "--data", "places", required=True, multiple=True, type=_PATH, help="Folder, JSON or YAML file. May be repeated."
)
@click.option("--format", default="auto", show_default=True, help="Format of the data set.")
@click.option("--split", default="test", show_default=True, help="train, val, test, or all.")
@click.option("--weights", multiple=True, help="A shipped model's name or a weights folder. May be repeated.")
@click.option("--detections", multiple=True, type=_PATH, help="COCO results, as JSON. May be repeated.")
@click.option("--out", required=True, type=_PATH, help="Folder for the report.")
@click.option("--images", type=_PATH, help="COCO: folder of the pictures, where they lie elsewhere.")
@click.option("--other", type=_PATH, help="ALL-IDB1: folder with the centroids of the other white cells.")
@click.option("--corrections", type=_PATH, help="Measure on corrected labels, too; both are printed.")
@click.option("--mpp", default="data", show_default=True, help="µm/px: data (as the set says), auto, X or X,Y.")
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda.")
@click.option("--threshold", type=Number(0, 1), help="Operating score. [default: the card's; 0.5 for files]")
@click.option("--max-dets", default=500, show_default=True, type=click.IntRange(1), help="Boxes per class and smear.")
def command(places: tuple[Path, ...], **options: Any) -> None:
    """Measure models, or anyone's detections, on a data set.

    Prints average precision (COCO's, compared with pycocotools in every run) with 95 % intervals from a bootstrap
    over groups, and writes report.html, its plots, metrics.json and CSV files to the folder of --out.

    \b
    Examples:
      blastdet evaluate --data bccd --split test --weights default --out report
      blastdet evaluate --data bccd --detections detections.coco.json --out report
      blastdet evaluate --data bccd --data other/truth.json --split all --weights default --out both

    A detections file is a COCO results list or the detections.coco.json of `blastdet detect --format coco
    --min-score 0.01`; its scores should go down to 0.01, or the curves end early.

    Exit codes: 0 done, 2 bad input. Research use only.
    """
    from blastdet.cli._extras import require
    from blastdet.core.errors import ConfigError

    asked = [Asked(**options, data=place) for place in places]
    if not asked[0].weights and not asked[0].detections:
        raise ConfigError("--weights or --detections: none found, at least one expected")
    for name in ("detections", "images", "other", "corrections"):
        if len(asked) > 1 and options[name]:
            raise ConfigError(f"--{name}: belongs to one data set, {len(asked)} found")
    require("evaluate", "pycocotools", "scipy", "matplotlib", "jinja2")
    from blastdet.datasets.convert import check_no_file
    from blastdet.evaluation import evaluate
    from blastdet.evaluation.reporting import html_report, text

    check_no_file(asked[0].out)

    measured = [(one, read_datasets(one)) for one in asked]  # all are read before anything is measured
    evaluations = []
    for one, datasets in measured:
        for found in predictions_of(one, datasets[0]):
            evaluations += [evaluate.evaluate(truth, found, one.max_dets) for truth in datasets]
    for evaluation in evaluations:
        click.echo(text.as_text(evaluation) + "\n")
    out = asked[0].out
    for path in [*html_report.write_report(evaluations, out), *text.write_files(evaluations, out)]:
        click.echo(f"wrote {path}")


def read_datasets(asked: Asked) -> list[Dataset]:
    """The split asked for; with corrections, a second time with these applied."""
    from blastdet.datasets.formats import registry

    mpp = None if asked.mpp in ("data", "auto") else parse_mpp(asked.mpp)
    whole = registry.read(asked.data, asked.format, other=asked.other, images=asked.images)
    if isinstance(mpp, tuple):
        whole = replace(whole, samples=tuple(replace(sample, mpp=mpp) for sample in whole))
    parts = [only_split(whole, asked.split, asked.data)]
    if asked.corrections is not None:
        from blastdet.datasets.apply_corrections import apply_corrections

        corrected = apply_corrections(whole, asked.corrections)
        corrected = replace(corrected, name=f"{whole.name} (corrected by {asked.corrections.name})")
        parts.append(only_split(corrected, asked.split, asked.data))
    return parts


def only_split(dataset: Dataset, split: str, where: Path) -> Dataset:
    """One split of a data set, or ``"all"`` of it; an empty one is an error that lists what there is."""
    from blastdet.core.errors import ConfigError

    part = dataset if split == "all" else dataset.with_split(split)
    if not len(part):
        known = ", ".join(sorted({str(sample.split) for sample in dataset if sample.split})) or "none"
        raise ConfigError(f"{where}: no smear of split {split!r} found; splits there are: {known} (or --split all)")
    return part


def predictions_of(asked: Asked, dataset: Dataset, failed: list[str] | None = None) -> list[Predictions]:
    """All detections to be measured: of files first, then of models; `failed` as for `from_model`."""
    files = [from_file(path, dataset, asked.threshold) for path in asked.detections]
    return files + [from_model(name, dataset, asked, failed) for name in asked.weights]


def from_file(path: Path, dataset: Dataset, threshold: float | None) -> Predictions:
    """Anyone's detections, from a COCO results file."""
    from blastdet.core.model_card import sha256_of
    from blastdet.core.types import CELL_CLASSES
    from blastdet.datasets.formats.coco import read_results
    from blastdet.evaluation.evaluate import Predictions

    found = tuple(read_results(path, dataset))
    operating = dict.fromkeys(CELL_CLASSES, 0.5 if threshold is None else threshold)
    return Predictions(path.name, found, operating, {"file": path.name, "sha256": sha256_of(path)})


def from_model(weights: str, dataset: Dataset, asked: Asked, failed: list[str] | None = None) -> Predictions:
    """Run a model over every smear of `dataset`.

    A picture that cannot be read or has no scale is an error, for no figure may pass over it; where a list `failed` is
    given, it gets a line instead, and nothing is found on that picture.
    """
    from blastdet.cli._progress import file_reporter
    from blastdet.core.errors import BlastdetError
    from blastdet.core.types import Detections
    from blastdet.evaluation.evaluate import Predictions
    from blastdet.inference.pipeline import Options, detect_smear, load_models

    annotated = {name for sample in dataset for name in sample.annotated}
    models = load_models(weights, asked.device, second_stage="blast" in annotated)
    found, scales, sources = [], [], set()
    with file_reporter(len(dataset), models.card.name) as step:
        for sample in dataset:
            mpp = sample.mpp if asked.mpp == "data" else parse_mpp(asked.mpp)
            step()
            try:
                html_report = detect_smear(sample.path, models, Options(mpp=mpp, min_score=0.01))
            except BlastdetError as error:
                if failed is None:
                    raise
                failed.append(str(error))
                found.append(Detections.empty())
                scales.append(sample.mpp or (1.0, 1.0))
                continue
            found.append(html_report.candidates)
            scales.append(html_report.mpp)
            sources.add(html_report.mpp_source)
    operating = models.thresholds()
    if asked.threshold is not None:
        operating = dict.fromkeys(operating, asked.threshold)
    about = {**models.describe(), "card": models.card.model_dump(mode="json"), "mpp_sources": sorted(sources)}
    nucleated = "blast" not in models.classes
    return Predictions(models.card.name, tuple(found), operating, about, tuple(scales), nucleated)


def parse_mpp(text: str) -> Scale | Literal["auto"]:
    """``auto``, or µm/px as ``X`` or ``X,Y``."""
    from blastdet.core.errors import ScaleError

    if text == "auto":
        return "auto"
    try:
        parts = [float(part) for part in text.split(",")]
        x, y = parts if len(parts) == 2 else parts * 2
    except ValueError:
        x = y = 0.0
    if not (0.001 <= x < 100 and 0.001 <= y < 100):
        raise ScaleError(f"--mpp {text}: data, auto, X or X,Y expected (0.001 to 100 µm per pixel)")
    return x, y
