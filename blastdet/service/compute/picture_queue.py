"""Pictures for browsers, made once: few threads of their own make them, so that a rush holds up nothing else."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, Lock, to_thread

from blastdet.core.errors import BlastdetError
from blastdet.imaging.io import is_tiff
from blastdet.service.compute.pool import ComputeBusyError, ComputePool
from blastdet.service.store.blobs import Blobs


class Pictures:
    """Makes pictures in child processes, and keeps them as files.

    Parameters
    ----------
    pool : ComputePool
    blobs : Blobs
    most_waiting : int
        Pictures that may wait to be made; more are refused.
    """

    def __init__(self, pool: ComputePool, blobs: Blobs, most_waiting: int = 128) -> None:
        self._pool, self._blobs, self._most = pool, blobs, pool.size + most_waiting
        self._asked = 0
        self._making = CapacityLimiter(pool.size)
        self._making_overview: WeakValueDictionary[Path, Lock] = WeakValueDictionary()

    async def kept(self, path: Path) -> bytes | None:
        """A picture that was made before."""
        try:
            return await to_thread.run_sync(path.read_bytes)
        except FileNotFoundError:
            return None

    async def make(self, path: Path, op: str, args: Mapping[str, Any]) -> bytes:
        """What `op` of a child process makes, and keep it under `path`.

        Raises
        ------
        ComputeBusyError
            If too many wait already.
        """
        return await self._limited(partial(self._made, path, op, args))

    async def overview(self, image: Path, path: Path) -> Path:
        """The overview of a large TIFF, kept under `path` and made once; of other images, the image itself.

        Raises
        ------
        ComputeBusyError
        BlastdetError
            If the image was deleted meanwhile.
        OSError
            If the disk is full.
        """
        if not await to_thread.run_sync(is_tiff, image):
            return image
        lock = self._making_overview.setdefault(path, Lock())
        async with lock:  # who waits here takes no thread
            if not path.is_file():
                await self.make(path, "overview", {"path": str(image)})
        if not path.is_file():
            if not image.is_file():
                raise BlastdetError("the image is gone: it was deleted")
            raise OSError(errno.ENOSPC, "no room for an overview")
        return path

    async def _limited(self, do: partial[bytes]) -> bytes:
        if self._asked >= self._most:
            raise ComputeBusyError(f"busy: {self._asked} pictures wait already. Try again in a few seconds")
        self._asked += 1  # at once: the limiter counts a task only when it comes to wait
        try:
            return await to_thread.run_sync(do, limiter=self._making)
        finally:
            self._asked -= 1

    def _made(self, path: Path, op: str, args: Mapping[str, Any]) -> bytes:
        _, content = self._pool.call(op, dict(args))
        self._blobs.cached(path, content)
        return content
