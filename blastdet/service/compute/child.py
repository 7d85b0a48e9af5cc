"""The child process: ``python -m blastdet.service.compute.child``. Requests come by stdin, answers go to stdout."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import Any

from blastdet.core.errors import BlastdetError
from blastdet.service.compute.pipe import DamagedOverviewError, PipeClosedError, receive, send

MODELS = "BLASTDET_MODELS"
"""Environment: weights folders to load at the start, separated by ``os.pathsep``."""

MEMORY_MB = "BLASTDET_MEMORY_MB"
DEVICE = "BLASTDET_DEVICE"

_IDLE_S = 20.0  # after which decoded images are dropped
_LARGEST_FILE = 2**31


class CancelledError(Exception):
    """The parent does not want the answer any more."""


class _Channel:
    """Both directions of the pipe."""

    def __init__(self) -> None:
        self.requests = os.dup(0)
        self.answers = os.dup(1)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)  # what a library prints must not end up between the answers

    def progress(self, done: int, total: int) -> None:
        """Report how far a request is; raises `CancelledError` if the parent cancelled it."""
        send(self.answers, {"progress": [done, total]})
        if select.select([self.requests], [], [], 0)[0]:
            header, _ = receive(self.requests)
            if header.get("op") == "cancel":
                raise CancelledError


def main() -> None:
    """Answer requests until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = _Channel()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    from blastdet.service.compute.operations import Operations

    operations = Operations(os.environ[DEVICE], channel.progress)
    for folder in filter(None, os.environ.get(MODELS, "").split(os.pathsep)):
        with contextlib.suppress(BlastdetError):  # said again by each request that names it
            operations.model(folder)
    _limit(int(os.environ[MEMORY_MB]))
    send(channel.answers, {"ready": True})
    with contextlib.suppress(PipeClosedError):
        while True:
            if not select.select([channel.requests], [], [], _IDLE_S)[0]:
                operations.forget()
                continue
            header, payload = receive(channel.requests)
            if header.get("op") != "cancel":  # of a request that is answered already
                _answer(channel, operations, header, payload)


def _answer(channel: _Channel, operations: Any, header: dict[str, Any], payload: bytes) -> None:
    try:
        found, body = operations.do(str(header["op"]), header.get("args", {}), payload)
        send(channel.answers, {"result": found}, body)
    except CancelledError:
        send(channel.answers, {"error": "cancelled", "kind": "cancelled"})
    except (BlastdetError, MemoryError) as error:
        if _is_short_of_memory(error):
            operations.forget()
            line = f"needs more than the {os.environ[MEMORY_MB]} MB of memory that one image may take"
            send(channel.answers, {"error": line, "kind": "memory"})
            sys.exit(1)  # such a process is not to be trusted with the next image
        kind = "input"
        if isinstance(error, DamagedOverviewError):
            operations.forget()  # or it stays open
            kind = "overview"
        send(channel.answers, {"error": _without_paths(str(error), header.get("args", {})), "kind": kind})
    except FileNotFoundError:  # deleted meanwhile
        send(channel.answers, {"error": "the image is gone: it was deleted", "kind": "input"})
    except PipeClosedError:
        raise
    except Exception:  # noqa: BLE001  # a decoder may raise anything
        _log_bug(str(header.get("op")))
        line = "the image is damaged, or the service has a fault; its log says which"  # nothing of its inside
        send(channel.answers, {"error": line, "kind": "bug"})


def _log_bug(op: str) -> None:
    from blastdet.service import service_log  # with half of SQLAlchemy, which a child does not need otherwise

    service_log.set_up()
    service_log.failed("compute.bug", op=op)


def _without_paths(line: str, args: dict[str, Any]) -> str:
    """A line for somebody who knows the image by its name, and must not learn where the service keeps it."""
    for key in ("path", "record", "overview"):
        if args.get(key):
            line = line.replace(str(args[key]), str(args.get("name", "the image")))
    return " ".join(line.split())


def _is_short_of_memory(error: BaseException | None) -> bool:
    """Whether an error is, or comes from, a lack of memory: decoders take it for a damaged image."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__
    return error is not None


def _limit(memory_mb: int) -> None:
    """Limit what decoding and computing may add to the memory that the loaded models take."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    taken = _virtual_memory()
    if taken:
        most = taken + memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _virtual_memory() -> int:
    """Bytes of address space in use; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as stream:  # noqa: PTH123
            return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, also in the middle of a computation."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
