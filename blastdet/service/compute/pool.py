"""The side of the parent: starts child processes, gives them requests, ends those that take too much."""

from __future__ import annotations

import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from blastdet.core.errors import BlastdetError
from blastdet.service.compute.child import DEVICE, MEMORY_MB, MODELS
from blastdet.service.compute.pipe import DamagedOverviewError, PipeClosedError, receive, send

_CANCEL_S = 5.0  # that a child has to notice
_START_S = 120.0
_TICK_S = 0.2

OnProgress = Callable[[int, int], None]
Answer = tuple[dict[str, Any], bytes]


class ComputeDiedError(BlastdetError):
    """The child ended in the middle of a request: killed, out of memory, or brought down by a damaged image."""


class ComputeStalledError(ComputeDiedError):
    """The child reported nothing for too long, and was ended."""


class ComputeCancelledError(BlastdetError):
    """The request was cancelled."""


class ComputeBusyError(BlastdetError):
    """All child processes are busy, and too many requests wait already."""


@dataclass(frozen=True)
class ComputeLimits:
    """What a child process may take.

    Parameters
    ----------
    memory_mb : int
        Beside its loaded models.
    stall_seconds : float
        Without a sign of progress.
    device : str
        As for `blastdet.load`.
    """

    memory_mb: int = 4096
    stall_seconds: float = 180.0
    device: str = "auto"


@dataclass(frozen=True)
class Watch:
    """How the caller of a request follows it.

    Parameters
    ----------
    on_progress : callable, optional
        Called with tiles done and tiles in all.
    is_cancelled : callable, optional
        Asked several times a second.
    stall_seconds : float, optional
        As in `ComputeLimits`, for requests that are known to be short.
    """

    on_progress: OnProgress | None = None
    is_cancelled: Callable[[], bool] | None = None
    stall_seconds: float | None = None


class ComputeProcess:
    """One child process, started again after it ended; for one thread at a time.

    Parameters
    ----------
    limits : ComputeLimits
    models : sequence of str
        Weights folders to load before the first request.
    """

    def __init__(self, limits: ComputeLimits, models: Sequence[str] = ()) -> None:
        self.limits, self.models = limits, tuple(models)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, while it lives."""
        return None if self._child is None or self._child.poll() is not None else self._child.pid

    def start(self) -> None:
        """Start the child and wait until its models are loaded; nothing if it lives."""
        if self.pid is not None:
            return
        self.stop()
        environment = {
            **os.environ,
            MODELS: os.pathsep.join(self.models),
            MEMORY_MB: str(self.limits.memory_mb),
            DEVICE: self.limits.device,
        }
        self._child = subprocess.Popen(
            [sys.executable, "-m", "blastdet.service.compute.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the supervisor
        )
        with self._to_the_end():
            self._said(self._child, Watch(), _START_S)

    def call(self, op: str, args: dict[str, Any], payload: bytes = b"", watch: Watch | None = None) -> Answer:
        """Have the child do something; see `Operations`.

        Raises
        ------
        BlastdetError
            With the child's own line, if the input is at fault; `DamagedOverviewError` if the overview of an image is.
        ComputeDiedError, ComputeCancelledError
        """
        self.start()
        watch = watch or Watch()
        with self._to_the_end():
            assert self._child is not None and self._child.stdin is not None
            send(self._child.stdin.fileno(), {"op": op, "args": args}, payload)
            header, content = self._said(self._child, watch, watch.stall_seconds or self.limits.stall_seconds)
        return self._answer(header, content)

    @contextmanager
    def _to_the_end(self) -> Iterator[None]:
        """End the child unless it is heard to the end: what it still says would be taken for its next answer."""
        try:
            yield
        except PipeClosedError:
            raise self._died() from None
        except BaseException:  # also from the caller's `watch`
            self.stop()
            raise

    def _said(self, child: subprocess.Popen[bytes], watch: Watch, patience: float) -> Answer:
        """The answer of the child; progress is passed on."""
        assert child.stdin is not None and child.stdout is not None
        answers = select.poll()  # select.select takes no file number above 1,023
        answers.register(child.stdout, select.POLLIN)
        heard, cancelled_at = time.monotonic(), 0.0
        while True:
            if answers.poll(1000 * _TICK_S):
                header, payload = receive(child.stdout.fileno())
                heard = time.monotonic()
                if "progress" not in header:
                    return header, payload
                if watch.on_progress is not None:
                    watch.on_progress(*header["progress"])
            if not cancelled_at and watch.is_cancelled is not None and watch.is_cancelled():
                cancelled_at = time.monotonic()
                send(child.stdin.fileno(), {"op": "cancel"})
            if cancelled_at and time.monotonic() - cancelled_at > _CANCEL_S:
                raise ComputeCancelledError("cancelled")
            if time.monotonic() - heard > patience:
                raise ComputeStalledError(f"no progress for {patience:.0f} seconds")

    def _answer(self, header: dict[str, Any], payload: bytes) -> Answer:
        if "error" not in header:
            return header.get("result", {}), payload
        kind, line = header.get("kind"), str(header["error"])
        if kind == "cancelled":
            raise ComputeCancelledError(line)
        if kind == "memory":
            self.stop()
        if kind == "overview":
            raise DamagedOverviewError(line)
        raise BlastdetError(line)

    def _died(self) -> ComputeDiedError:
        assert self._child is not None
        try:
            code = self._child.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        self.stop()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return ComputeDiedError(f"the process that computes it ended ({how}): the image is damaged, or memory ran out")

    def stop(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


@dataclass
class ComputePool:
    """Several child processes for the threads of a server; each request takes a free one.

    Parameters
    ----------
    size : int
    limits : ComputeLimits
    models : sequence of str
    most_waiting : int
        Requests that may wait for a free process.
    """

    size: int
    limits: ComputeLimits
    models: Sequence[str] = ()
    most_waiting: int = 256
    _free: queue.LifoQueue[ComputeProcess] = field(default_factory=queue.LifoQueue)
    _all: list[ComputeProcess] = field(default_factory=list)
    _waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._all = [ComputeProcess(self.limits, self.models) for _ in range(self.size)]
        for process in self._all:
            self._free.put(process)

    def start(self) -> None:
        """Start all processes; a request that comes meanwhile waits."""
        taken = [self._free.get() for _ in self._all]
        for process in taken:
            try:
                process.start()
            except BlastdetError:  # said by the first request that needs it
                process.stop()
            finally:
                self._free.put(process)

    @property
    def is_ready(self) -> bool:
        """Whether some process lives."""
        return any(process.pid is not None for process in self._all)

    def call(self, op: str, args: dict[str, Any], payload: bytes = b"", watch: Watch | None = None) -> Answer:
        """As `ComputeProcess.call`; also raises `ComputeBusyError`."""
        with self._lock:
            if self._waiting >= self.most_waiting + self.size:
                raise ComputeBusyError(f"busy: {self._waiting} requests wait already. Try again in a few seconds")
            self._waiting += 1
        try:
            process = self._free.get()
            try:
                return process.call(op, args, payload, watch)
            finally:
                self._free.put(process)
        finally:
            with self._lock:
                self._waiting -= 1

    def close(self) -> None:
        """End all processes."""
        for process in self._all:
            process.stop()
