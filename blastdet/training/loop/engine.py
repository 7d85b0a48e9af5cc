"""The training loop for detectors and classifiers. It resumes exactly, and stops on a loss that is not finite.

A sample depends only on (seed, epoch, index), so a run that was killed continues after its last finished epoch as if
uninterrupted: the checkpoint has weights, moving average, optimiser and history, and needs no random state. Results
are bit-identical for the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from blastdet.core.errors import BlastdetError
from blastdet.core.model_card import Card, sha256_of
from blastdet.core.types import RGB
from blastdet.models.decoding import Raw
from blastdet.training.config import LoopConfig
from blastdet.training.loop.checkpoints import BEST, LAST, METRICS, save, save_state, write_history

_CLIP = 10.0


class Learner(Protocol):
    """What the loop needs of a model."""

    module: Any

    def to(self, device: torch.device) -> Learner: ...

    def loss(self, batch: dict[str, Tensor], autocast: torch.autocast) -> tuple[Tensor, dict[str, float]]:
        """Mean loss of a batch, and its parts for the log."""
        ...

    def export(self, path: Path) -> None:
        """Write the model as ONNX; may change the module so that it cannot be trained further."""
        ...

    @staticmethod
    def collate(samples: Sequence[Any]) -> dict[str, Tensor]: ...


class Trainable(Learner, Protocol):
    """A detector, made from its name, the number of classes and the µm/px.

    ``output`` goes into the card, and determines how `blastdet.models.detector` decodes the exported model.
    """

    output: Literal["yolo", "boxes"]

    def raw(self, image: RGB, card: Card, device: torch.device) -> Raw:
        """Raw output for one image, as the exported model gives it."""
        ...


class Samples(Protocol):
    """The samples of one epoch, a map-style dataset; sample i is always the same."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def names(self, indices: range) -> list[str]:
        """Names of the images that samples are made from."""
        ...


L = TypeVar("L", bound=Learner)


@dataclass
class State(Generic[L]):
    """The state of a training, as kept in checkpoints."""

    model: L
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    best_sha256: str = ""
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Hooks:
    """Functions that the loop calls, so that it depends on neither a terminal nor a dataset.

    Parameters
    ----------
    validate : callable
        Returns figures of the moving average; the epoch with the highest ``"fitness"`` is the best.
    step : callable
        Called with steps done, steps in total, current values.
    epoch : callable
        Called when an epoch has been saved; ``state.history[-1]`` is its row.
    """

    validate: Callable[[State[Any]], dict[str, float]]
    step: Callable[[int, int, dict[str, float]], None] = lambda done, total, values: None
    epoch: Callable[[State[Any]], None] = lambda state: None


def start(model: L, config: LoopConfig, device: torch.device) -> State[L]:
    """A new state: model on its device, moving average equal to it, fresh optimiser."""
    model.to(device)
    ema = {name: value.detach().clone() for name, value in model.module.state_dict().items()}
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
    return State(model, ema, _optimizer(model.module, config), scaler)


def train(state: State[L], epoch: Callable[[int], Samples], config: LoopConfig, run: Path, hooks: Hooks) -> State[L]:
    """Train until the last epoch of `config`, or until `patience` runs out, writing checkpoints below `run`.

    Raises `BlastdetError` if the loss is not finite; the error names epoch, batch, parts of the loss and images.

    Parameters
    ----------
    state : State
        From `start` or `resume`; changed in place and returned.
    epoch : callable
        The samples of an epoch, by its number from 0.
    run : Path
        Gets ``last.pt``, ``best.pt`` (moving average) and ``metrics.csv`` after every epoch.
    """
    if config.init and not state.history:
        _judge_start(state, run, hooks)
    batches = _batches(epoch, len(epoch(state.epoch)), state, config)
    while state.epoch < config.epochs and not config.should_stop_early(state.epoch, state.best_epoch):
        started = time.perf_counter()
        # Seeds random numbers inside the model (dropout) anew for each epoch.
        torch.manual_seed(config.seed * 100_003 + state.epoch)
        losses = _epoch(state, epoch(state.epoch), batches, config, hooks)
        state.epoch += 1
        row = {"epoch": float(state.epoch), "lr": state.optimizer.param_groups[0]["lr"], **losses}
        if state.epoch % config.val_every == 0 or state.epoch == config.epochs:
            row |= hooks.validate(state)
        state.seconds += time.perf_counter() - started
        row["seconds"] = state.seconds
        state.history.append(row)
        if not math.isfinite(row.get("fitness", 0.0)):
            raise BlastdetError(f"training: validation figures of epoch {state.epoch} are not finite. Lower lr")
        if row.get("fitness", -math.inf) > state.best:
            _note_best(state, row["fitness"], run)
        save_state(run / LAST, state)
        write_history(run / METRICS, state.history)
        hooks.epoch(state)
    return state


def _judge_start(state: State[Any], run: Path, hooks: Hooks) -> None:
    """Validate the starting weights as epoch 0: they are the best ones until an epoch is better."""
    row = {"epoch": 0.0, **hooks.validate(state)}
    state.history.append(row)
    if math.isfinite(row.get("fitness", -math.inf)):
        _note_best(state, row["fitness"], run)
    hooks.epoch(state)


def _note_best(state: State[Any], fitness: float, run: Path) -> None:
    state.best, state.best_epoch = fitness, state.epoch
    save(run / BEST, {"ema": state.ema, "epoch": state.epoch})
    state.best_sha256 = sha256_of(run / BEST)


def _trained(module: nn.Module) -> nn.Module:
    """The module in training mode; batch norms that are not trained keep their statistics."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.affine and not part.weight.requires_grad:
            part.eval()
    return module


def _epoch(
    state: State[Any], samples: Samples, batches: Iterator[dict[str, Tensor]], config: LoopConfig, hooks: Hooks
) -> dict[str, float]:
    module, optimizer, scaler = _trained(state.model.module), state.optimizer, state.scaler
    device = next(module.parameters()).device
    total: dict[str, float] = {}
    parts_of = _parts(len(samples), config.batch)
    steps = len(parts_of)
    known = dict([("AP", row["AP"]) for row in state.history if "AP" in row][-1:])
    for number, batch in enumerate(islice(batches, steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, state.step, steps)
        loss, parts = state.model.loss(batch, autocast(config, device))
        if not torch.isfinite(loss):
            names = ", ".join(samples.names(parts_of[number - 1]))
            where = f"epoch {state.epoch + 1}, batch {number}"
            raise BlastdetError(f"training: loss {loss.item()} in {where}: {parts}; its images: {names}")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(module.parameters(), _CLIP)
        scaler.step(optimizer)
        scaler.update()
        state.step += 1
        _average(state, config.ema)
        for name, value in parts.items():
            total[name] = total.get(name, 0.0) + value
        values = {"epoch": state.epoch + 1.0, "loss": sum(total.values()) / number, **known}
        hooks.step(state.step, config.epochs * steps, values)
    return {name: value / steps for name, value in total.items()}


def _batches(
    epoch: Callable[[int], Samples], length: int, state: State[Any], config: LoopConfig
) -> Iterator[dict[str, Tensor]]:
    """Batches of all remaining epochs as one stream: workers start once, and work ahead during validation."""
    device = next(state.model.module.parameters()).device
    coming = [
        [(number, index) for index in some]
        for number in range(state.epoch, config.epochs)
        for some in _parts(length, config.batch)
    ]
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", _AllEpochs(epoch)),
        batch_sampler=coming,
        num_workers=config.workers,
        collate_fn=state.model.collate,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if config.workers else None,
    )
    batches = iter(loader)  # here, since it draws a random number, which must not be one of an epoch's
    return ({name: value.to(device, non_blocking=True) for name, value in batch.items()} for batch in batches)


def _parts(length: int, batch: int) -> list[range]:
    """Samples of an epoch by batch; a single last sample, which has no variance, joins the batch before it."""
    starts = list(range(0, length, batch))
    if len(starts) > 1 and length - starts[-1] == 1:
        starts.pop()
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], length], strict=True)]


class _AllEpochs:
    """Samples of every epoch, by (number of the epoch, index)."""

    def __init__(self, epoch: Callable[[int], Samples]) -> None:
        self.epoch = epoch
        self.number = -1
        self.samples: Samples | None = None

    def __getitem__(self, place: tuple[int, int]) -> Any:
        number, index = place
        if self.samples is None or number != self.number:
            self.number, self.samples = number, self.epoch(number)
        return self.samples[index]


def autocast(config: LoopConfig, device: torch.device) -> torch.autocast:
    """Mixed precision as configured."""
    amp = precision(config, device)
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "off")


def precision(config: LoopConfig, device: torch.device) -> str:
    """``"off"``, ``"bf16"`` or ``"fp16"``, as configured; ``"auto"`` depends on the processor.

    A CPU without instructions for bf16 emulates it: measured on one with AVX2 only, ten times slower than float32.
    """
    if config.amp != "auto":
        return config.amp
    cuda = device.type == "cuda"
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else _cpu_has_bf16()
    return "bf16" if has_bf16 else "off"


def _cpu_has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def learning_rate(config: LoopConfig, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then cosine decay to one hundredth."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(config.epochs * steps_per_epoch - warmup, 1), 1.0)
    return config.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def _optimizer(module: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """AdamW, without weight decay for biases and normalisation layers (one-dimensional)."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999))


def _average(state: State[Any], decay: float) -> None:
    """Update the moving average; early in a training it follows the model faster."""
    keep = min(decay, (1 + state.step) / (10 + state.step))
    for name, value in state.model.module.state_dict().items():
        average = state.ema[name]
        if average.dtype.is_floating_point:
            average.lerp_(value.detach(), 1 - keep)
        else:
            average.copy_(value)


class ema_weights:  # noqa: N801  # a context manager, read as a verb
    """Inside the block the model carries its moving average and is in evaluation mode."""

    def __init__(self, state: State[Any]) -> None:
        self.state = state

    def __enter__(self) -> Any:
        module = self.state.model.module
        self.own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.state.ema)
        module.eval()
        return self.state.model

    def __exit__(self, *error: object) -> None:
        self.state.model.module.load_state_dict(self.own)
        self.state.model.module.train()
