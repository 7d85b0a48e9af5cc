"""One training from configuration to weights folder: data, loop, export, thresholds, card."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path

import numpy as np
import torch

from blastdet import __version__, boxes
from blastdet.cards import Card, DataSource, InputSpec, Metric, Threshold, Training, sha256_of, write_card
from blastdet.configs import DataConfig, TrainConfig, expand, to_yaml
from blastdet.detectors import load_detector
from blastdet.errors import BlastdetError, ConfigError
from blastdet.evaluation.coco import APResult, average_precision
from blastdet.formats import read
from blastdet.formats.corrections import apply_corrections
from blastdet.images import read_image
from blastdet.splits import assign
from blastdet.training import MODELS, engine
from blastdet.training.samples import Picture, load_picture
from blastdet.training.weak import weak_truth
from blastdet.types import Dataset, Detections, Smear

CONFIG, WEIGHTS = "config.yaml", "weights"
_LIMITS = (
    "Research use only; no diagnosis.",
    "Trained on the data sets listed under training; other stains, microscopes and focus lower its figures.",
)


@dataclass(frozen=True)
class Data:
    """What a training sees: smears to train on with their weight, and a data set to validate on."""

    train: tuple[tuple[Smear, float], ...]
    val: Dataset
    sources: tuple[DataSource, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """Where a run tells how far it is: plain callables, so that the loop knows no terminal."""

    say: Callable[[str], None] = print
    step: Callable[[int, int, dict[str, float]], None] = lambda done, total, values: None


def run_training(
    config: TrainConfig,
    base: Path,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    progress: Progress = Progress(),
) -> Path:
    """Train, export and describe a detector; returns its weights folder.

    Parameters
    ----------
    config : TrainConfig
    base : Path
        Folder that paths in the configuration are relative to.
    run : Path
        Run folder: ``config.yaml``, ``metrics.csv``, ``curves.png``, checkpoints, ``weights/``.
    device : {"auto", "cpu", "cuda", "cuda:N"}
    resume : bool
        Go on from the last whole epoch of `run`.
    progress : Progress

    Raises
    ------
    BlastdetError
        One line: a faulty configuration, missing data, a run folder in the way, a loss that is not finite.
    """
    _prepare_folder(config, run, resume)
    place = pick_device(device)
    data = load_data(config, base)
    for line in data.notes:
        progress.say(line)
    progress.say(f"training on {len(data.train)} pictures, validating on {len(data.val)}, device {place}")
    pictures = [load_picture(smear, config.mpp, config.classes, weight) for smear, weight in data.train]
    val_pictures = [load_picture(smear, config.mpp, config.classes) for smear in data.val]
    torch.manual_seed(config.seed)
    model = build(config)
    state = engine.start(model, config, place)
    if resume:
        engine.resume(state, run)
        progress.say(f"resuming after epoch {state.epoch}")
    draft = _draft_card(config, data, state, place)

    def validate(current: engine.State) -> dict[str, float]:
        with engine.averaged(current) as averaged_model:
            found = predict_pictures(averaged_model, val_pictures, data.val, draft, place)
        figures = _figures(average_precision(data.val, found))
        progress.say(_epoch_line(current, config, figures))
        return figures

    engine.train(state, pictures, config, run, validate, progress.step)
    draw_curves(state.history, run / "curves.png")
    return finish(config, data, state, run, progress)


def build(config: TrainConfig) -> engine.Trainable:
    """The untrained detector that a configuration names.

    Raises
    ------
    ConfigError
        If the name is not one of `blastdet.training.MODELS`.
    """
    if config.model not in MODELS:
        raise ConfigError(f"model: {config.model} found, one of {list(MODELS)} expected")
    module, name = MODELS[config.model].split(":")
    model: engine.Trainable = getattr(import_module(module), name)(config.model, len(config.classes))
    return model


def load_data(config: TrainConfig, base: Path) -> Data:
    """Read and split the data sets of a configuration; a set's share is spread evenly over its pictures."""
    train: list[tuple[Smear, float]] = []
    val: list[Smear] = []
    sources, notes, root = [], [], base
    for item in config.data:
        if Path(item.path).name in config.leave_out:
            continue
        dataset = read_data(item, base)
        mine = [smear for smear in dataset.of("train") if smear.truth is not None]
        if not mine:
            raise ConfigError(f"{item.path}: no annotated picture in its train split")
        train += [(smear, item.share / len(mine)) for smear in mine]
        val += [smear for smear in dataset.of("val") if smear.truth is not None and item.validate_on]
        sources.append(
            DataSource(
                name=dataset.name,
                split=f"train of {Path(item.split).name}",
                fingerprint=fingerprint(mine),
                licence=item.licence,
                n_images=len(mine),
            )
        )
        notes += [f"{dataset.name}: {line}" for line in (*dataset.dropped, *dataset.notes)]
        root = dataset.root if len(config.data) == 1 else base
    if not val:
        raise ConfigError("data: no annotated picture in any val split, which chooses epoch and thresholds")
    return Data(tuple(train), Dataset("validation", root, tuple(val)), tuple(sources), tuple(notes))


def read_data(item: DataConfig, base: Path) -> Dataset:
    """One data set of a configuration, corrected, split, and without what it must not show."""
    dataset = read(expand(item.path, base), item.format, **item.options)
    if item.corrections:
        dataset = apply_corrections(dataset, expand(item.corrections, base))
    if item.exclude:
        dataset = without(dataset, expand(item.exclude, base))
    if item.split == "train":
        dataset = replace(dataset, smears=tuple(replace(smear, split="train") for smear in dataset))
    else:
        dataset = assign(dataset, str(expand(item.split, base)) if item.split.endswith(".csv") else item.split)
    dataset = with_scale(dataset)
    if item.weak:
        unknown = np.array(item.unknown, np.float32).reshape(-1, 4)
        weak = tuple(weak_truth(smear, item.weak, unknown) for smear in dataset)
        dataset = replace(dataset, smears=weak)
    return dataset


def with_scale(dataset: Dataset) -> Dataset:
    """Smears of unknown scale measured by their red cells; those that do not tell are left out, with a note."""
    from blastdet.ruler import measure

    kept, lost = [], 0
    for smear in dataset:
        mpp = smear.mpp or measure(read_image(smear.path)).mpp
        if mpp is None:
            lost += 1
        else:
            kept.append(replace(smear, mpp=mpp))
    notes = (f"{lost} pictures left out: no scale, and no red cells to measure it by",) if lost else ()
    return replace(dataset, smears=tuple(kept), notes=(*dataset.notes, *notes))


def without(dataset: Dataset, coco_file: Path) -> Dataset:
    """A data set without the pictures that a COCO file names, nor any other of their groups."""
    import json

    names = {image["file_name"] for image in json.loads(coco_file.read_text(encoding="utf-8"))["images"]}
    groups = {smear.group for smear in dataset if dataset.file_name(smear) in names}
    kept = [s for s in dataset if dataset.file_name(s) not in names and (s.group is None or s.group not in groups)]
    note = f"{len(dataset) - len(kept)} pictures left out: named by {coco_file.name}, or of a group with one named"
    return replace(dataset, smears=tuple(kept), notes=(*dataset.notes, note))


def fingerprint(smears: Iterable[Smear]) -> str:
    """sha256 over the bytes of images and annotations, whatever their order or folder."""
    digests = []
    for smear in smears:
        digest = hashlib.sha256(bytes.fromhex(sha256_of(smear.path)))
        if smear.truth is not None:
            cells = smear.truth.sorted()
            digest.update(cells.boxes_xyxy.tobytes() + cells.label.tobytes())
        digests.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def predict_pictures(
    model: engine.Trainable, pictures: Sequence[Picture], dataset: Dataset, card: Card, device: torch.device
) -> list[Detections]:
    """Cells of pictures at the model's µm/px, moved to the pixels of the smears they come from."""
    results = []
    for picture, smear, cells in zip(
        pictures, dataset, model.predict([picture.rgb for picture in pictures], card, device), strict=True
    ):
        height, width = picture.rgb.shape[:2]
        factor = (smear.size_wh[0] / width, smear.size_wh[1] / height)
        results.append(cells.with_columns(boxes_xyxy=boxes.scale(cells.boxes_xyxy, factor)))
    return results


def best_thresholds(result: APResult) -> dict[str, Threshold]:
    """For each class the score at which F1 on the validation split is highest (IoU 0.5)."""
    points = {}
    for name, matches in result.table.classes.items():
        counted = ~matches.ignored[0]
        found = np.cumsum(matches.found[0][counted])
        shown = np.arange(1, len(found) + 1)
        f1 = 2 * found / (shown + max(int(matches.n_truth.sum()), 1))
        last = np.r_[np.diff(matches.score[counted]) != 0, True] if len(f1) else np.empty(0, bool)
        best = int(np.argmax(np.where(last, f1, 0))) if len(f1) else 0
        value = float(matches.score[counted][best]) if len(f1) else 0.5
        criterion = f"highest F1 at IoU 0.5 ({f1[best]:.3f})" if len(f1) else "no detection on validation; 0.5 taken"
        points[name] = Threshold(value=round(value - 5e-4, 3), chosen_on="validation split", criterion=criterion)
    return points


def finish(config: TrainConfig, data: Data, state: engine.State, run: Path, progress: Progress) -> Path:
    """Export the best epoch, check it against torch, choose thresholds, write the card."""
    engine.load_best(state, run)
    device = next(state.model.module.parameters()).device
    draft = _draft_card(config, data, state, device)
    pictures = [load_picture(smear, config.mpp, config.classes) for smear in data.val]
    state.model.module.eval()
    by_torch = predict_pictures(state.model, pictures, data.val, draft, device)
    result = average_precision(data.val, by_torch)
    folder = run / (WEIGHTS + ".tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    state.model.export(folder / "model.onnx")
    metrics = tuple(
        Metric(data=data.val.name, split="val", n_images=len(data.val), n_cells=n, metric=f"AP50 {name}", value=value)
        for name, n in result.n_truth.items()
        for value in [round(result.figures(name)["AP50"], 4)]
    )
    unseen = Threshold(value=0.5, chosen_on="nothing", criterion="no truth on the validation split")
    card = draft.model_copy(
        update={
            "files": {"model.onnx": sha256_of(folder / "model.onnx")},
            "thresholds": {**dict.fromkeys(config.classes, unseen), **best_thresholds(result)},
            "metrics": metrics,
            "training": draft.training.model_copy(
                update={"epochs": state.best_epoch, "duration_s": round(state.seconds, 1)}
            ),
        }
    )
    write_card(card, folder)
    progress.say(check_parity(folder, pictures[:32], data.val, by_torch[:32]))
    final = run / WEIGHTS
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    return final


def check_parity(folder: Path, pictures: Sequence[Picture], dataset: Dataset, by_torch: Sequence[Detections]) -> str:
    """Compare the exported model with torch on real pictures; one line that says how far they are apart.

    Raises
    ------
    BlastdetError
        If a cell above 0.1 is found by only one of them, or boxes or scores differ by more than 0.5 px or 0.001.
    """
    detector = load_detector(folder, "cpu")
    worst_box = worst_score = 0.0
    for picture, smear, expected in zip(pictures, dataset, by_torch, strict=False):
        cells = detector([picture.rgb])[0]
        height, width = picture.rgb.shape[:2]
        factor = (width / smear.size_wh[0], height / smear.size_wh[1])
        expected = expected.with_columns(boxes_xyxy=boxes.scale(expected.boxes_xyxy, factor))
        expected = expected[expected.score > 0.1]
        overlap = boxes.iou_matrix(expected.boxes_xyxy, cells.boxes_xyxy)
        if len(expected) and (not len(cells) or overlap.max(axis=1).min() < 0.5):
            raise BlastdetError(f"{folder}: the exported model misses cells that torch finds on {picture.name}")
        for row, partner in enumerate(overlap.argmax(axis=1) if len(expected) else []):
            shift = np.abs(expected.boxes_xyxy[row] - cells.boxes_xyxy[partner]).max()
            worst_box = max(worst_box, float(shift))
            worst_score = max(worst_score, abs(float(expected.score[row]) - float(cells.score[partner])))
    line = f"export equals torch within {worst_box:.3f} px and {worst_score:.5f} in score on {len(pictures)} pictures"
    if worst_box > 0.5 or worst_score > 1e-3:
        raise BlastdetError(f"{folder}: {line}; 0.5 px and 0.001 are allowed")
    return line


def pick_device(device: str) -> torch.device:
    """The torch device that a user's word means.

    Raises
    ------
    ConfigError
        If CUDA is asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device}: no CUDA device found; use --device cpu")
    if device != "cpu" and not device.startswith("cuda"):
        raise ConfigError(f"device: {device} found, auto, cpu, cuda or cuda:N expected")
    return torch.device(device)


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Losses and validation figures over epochs, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = list(dict.fromkeys(name for row in history for name in row))
    for name in names:
        points = [(row["epoch"], row[name]) for row in history if name in row]
        if name.endswith("loss"):
            left.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        elif name.startswith("AP"):
            right.plot(*zip(*points, strict=True), label=name)
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="average precision (validation)", ylim=(0, 1))
    for axes in (left, right):
        if axes.lines:
            axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _figures(result: APResult) -> dict[str, float]:
    overall = result.figures()
    figures = {"AP": overall["AP"], "AP50": overall["AP50"]}
    figures |= {f"AP50 {name}": result.figures(name)["AP50"] for name in result.classes}
    return {**figures, "fitness": (overall["AP"] + overall["AP50"]) / 2}


def _epoch_line(state: engine.State, config: TrainConfig, figures: dict[str, float]) -> str:
    shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "fitness")
    left = state.seconds / max(state.epoch - 1, 1) * (config.epochs - state.epoch) / 60
    return f"epoch {state.epoch}/{config.epochs}  {shown}  about {left:.0f} min left"


def _prepare_folder(config: TrainConfig, run: Path, resume: bool) -> None:
    path = run / CONFIG
    if resume and path.is_file() and path.read_text(encoding="utf-8") != to_yaml(config):
        raise ConfigError(f"{path}: differs from the configuration given; a run is resumed with its own")
    if not resume and (run / engine.LAST).exists():
        raise ConfigError(f"{run}: holds a run already; use --resume, or another --out")
    run.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(config), encoding="utf-8")


def _draft_card(config: TrainConfig, data: Data, state: engine.State, device: torch.device) -> Card:
    point = Threshold(value=0.5, chosen_on="", criterion="draft")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    training = Training(
        config=config.model_dump(mode="json"),
        seed=config.seed,
        commit=git_commit(),
        data=data.sources,
        epochs=config.epochs,
        device=name,
        duration_s=0,
    )
    return Card(
        name=config.name,
        task="detect",
        classes=config.classes,
        files={},
        mpp=config.mpp,
        input=InputSpec(wh=config.tile_wh),
        thresholds=dict.fromkeys(config.classes, point),
        training=training,
        versions=versions(),
        limits=_LIMITS,
    )


def versions() -> dict[str, str]:
    """Versions of everything that shapes a training."""
    names = ("torch", "torchvision", "ultralytics", "numpy", "opencv-python-headless", "onnx", "onnxruntime")
    return {"blastdet": __version__, **{name: metadata.version(name) for name in names}}


def git_commit() -> str:
    """Commit of the code, with ``+changes`` where it was edited since; empty outside a checkout."""
    folder = Path(__file__).parents[2]

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        return run.stdout.strip() if run.returncode == 0 else ""

    if not shutil.which("git") or not (folder / ".git").exists():
        return ""
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
