"""A commented configuration for the images that it is shown: where a user starts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blastdet.core.errors import ConfigError, printable
from blastdet.core.model_card import shipped
from blastdet.core.types import CELL_CLASSES, Dataset
from blastdet.datasets.formats.registry import detect_format
from blastdet.datasets.reading import notes_of, read_dataset
from blastdet.training.config import TrainConfig
from blastdet.training.config_file import read_config

FINE_TUNE = "fine-tune.yaml"
"""The shipped configuration that starts from the shipped detector."""

_FEW = 20  # images below which a fine-tuning is mostly luck
_MANY = 1000  # images from which training anew is worth trying


def starting_config(data: Sequence[str | os.PathLike[str]], *, format: str = "auto", **options: Any) -> str:
    """A configuration, as commented YAML, that fine-tunes the shipped detector on some datasets.

    Comments say what the datasets contain: images, cells of each class, scale, split. ``blastdet train`` takes the text
    as a file.

    Parameters
    ----------
    data : sequence of paths
        Datasets in any format that is read.
    format : str
        Their format, as for `blastdet.read_dataset`.
    **options
        How they are read: see `blastdet.read_dataset`; the configuration has them, too.

    Returns
    -------
    str

    Raises
    ------
    BlastdetError
        If a dataset cannot be read, has no annotated image, or no cell that the detector has a class for.

    Examples
    --------
    >>> print(starting_config(["datasets/demo/truth.json"]).splitlines()[0])
    # Fine-tunes weights/default on your images: blastdet train THIS_FILE
    """
    if not data:
        raise ConfigError("expected at least one dataset")
    settings = read_config(shipped("configs") / FINE_TUNE)
    blocks, total = [], 0
    for path in data:
        kind = detect_format(Path(path)) if format == "auto" else format
        dataset = read_dataset(Path(path), format=kind, **options)
        n = sum(sample.truth is not None for sample in dataset)
        _check(dataset, n, settings)
        total += n
        blocks.append(_block(Path(path), kind, dataset, options))
    name = Path(os.path.abspath(data[0])).stem  # noqa: PTH100 - resolve() fails on loops of links
    return "\n".join(
        [*_of_model(name, settings), *(line for block in blocks for line in block), *_of_loop(total, settings)]
    )


def _of_model(name: str, settings: TrainConfig) -> list[str]:
    return [
        "# Fine-tunes weights/default on your images: blastdet train THIS_FILE",
        f"name: {json.dumps(name, ensure_ascii=False)}    # of the run folder: runs/NAME",
        f"init: {settings.init}    # starting weights; without this line, training starts from random ones",
        f"model: {settings.model}    # that of the starting weights",
        f"classes: [{', '.join(settings.classes)}]    # a class that your images do not label is left as it is",
        f"mpp: {settings.mpp}    # µm per pixel that every image is resampled to",
        f"colour: {settings.colour}    # background and red cells are brought to fixed colours first",
        f"crop: {settings.crop}    # side of a training sample in pixels of that scale",
        "",
        "data:",
    ]


def _of_loop(n: int, settings: TrainConfig) -> list[str]:
    return [
        "",
        f"# {_advice(n)}",
        f"epochs: {settings.epochs}",
        f"epoch_samples: {settings.epoch_samples}    # crops an epoch",
        f"lr: {settings.lr}    # learning rate; a tenth of it if figures fall",
        f"warmup_epochs: {settings.warmup_epochs:g}",
        f"plain_epochs: {settings.plain_epochs}    # last epochs without mosaic",
        f"ema: {settings.ema}    # decay of the moving average of the weights",
        f"freeze: {json.dumps(list(settings.freeze))}    # layers that keep their weights, by start of the name",
        "augment:",
        *(f"  {key}: {json.dumps(value)}" for key, value in settings.augment.model_dump(mode="json").items()),
        "seed: 0",
        "",
    ]


def _check(dataset: Dataset, n: int, settings: TrainConfig) -> None:
    if not n:
        raise ConfigError(
            f"{dataset.root}: expected annotated images, got {len(dataset)} without annotations. "
            "Label them first, for example with: blastdet review FOLDER --html PAGE"
        )
    known = {*settings.classes, "blast"}
    if not any(count for name, count in _cells(dataset).items() if name in known):
        raise ConfigError(f"{dataset.root}: expected cells of {', '.join(sorted(known))}, got none")


def _cells(dataset: Dataset) -> Counter[str]:
    count: Counter[str] = Counter()
    for sample in dataset:
        if sample.truth is not None:
            count.update({name: n for name, n in sample.truth.counts().items() if n})
    return count


def _block(path: Path, kind: str, dataset: Dataset, options: Mapping[str, Any]) -> list[str]:
    """The entry of one dataset, with comments about what is in it."""
    annotated = [sample for sample in dataset if sample.truth is not None]
    cells = _cells(dataset)
    scales = Counter(sample.mpp for sample in dataset)
    known = [scale for scale in scales if scale is not None]
    shown = ", ".join(f"{cells[name]} {name}" for name in CELL_CLASSES if cells[name])
    lines = [
        f"  # {len(dataset)} image{'s' * (len(dataset) != 1)}, {len(annotated)} annotated: {shown}",
        f"  # scale: {_scale_line(scales[None], len(dataset), known, 'mpp' in options)}",
        *(f"  # note: {printable(' '.join(note.split()))}" for note in notes_of(dataset)),
        f"  - path: {json.dumps(str(path), ensure_ascii=False)}",
        f"    format: {kind}",
    ]
    splits = Counter(sample.split for sample in annotated)
    if any(name for name in splits):
        parts = ", ".join(f"{n} {name or 'without'}" for name, n in splits.items())
        lines.append(f"    split: auto    # the dataset's own: {parts}")
    else:
        lines.append("    split: auto    # none in the dataset: images of one group stay on one side")
    if options:
        lines.append(f"    options: {json.dumps(dict(options), ensure_ascii=False, default=str)}")
    lines.append("    sampling_weight: 1.0    # relative to other datasets")
    lines.append('    licence: ""    # goes on the card of the weights')
    return lines


def _scale_line(unknown: int, n: int, known: Sequence[tuple[float, float]], is_given: bool) -> str:
    if unknown == n:
        return "not stated, so it is measured from the red cells of each image; to set it: blastdet init --mpp"
    values = sorted({scale[0] for scale in known})
    span = f"{values[0]:.3g}" if len(values) == 1 else f"{values[0]:.3g} to {values[-1]:.3g}"
    rest = f"; not stated for {unknown} images, where it is measured" if unknown else ""
    return f"{span} µm/px, {'as given' if is_given else 'as the dataset states'}{rest}"


def _advice(n: int) -> str:
    if n < _FEW:
        return f"Annotated images: {n}. Label {_FEW} or more before you trust the figures."
    if n >= _MANY:
        return f"Annotated images: {n}. With so many, also try more epochs, and training without init."
    return f"Annotated images: {n}. This takes minutes on a CPU."
