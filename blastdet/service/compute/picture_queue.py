"""Pictures for browsers, made once, on few threads of their own on which people take turns."""

from __future__ import annotations

import asyncio
import errno
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread

from blastdet.core.errors import BlastdetError, ImageError
from blastdet.imaging.io import is_tiff
from blastdet.service.compute.fair_queue import FairQueue
from blastdet.service.compute.pipe import DamagedOverviewError
from blastdet.service.compute.pool import ComputeBusyError, ComputeCancelledError, ComputePool, Watch
from blastdet.service.store.blobs import NO_SPACE, Blobs

_FAILED_S = 300.0
_FULL_S = 10.0  # a full disk may have room again
_MOST_FOR_ONE = 8  # requests that may wait for the same overview: those of a browser, not all there may be
_MOST_OVERVIEWS = 32  # that wait to be made, each for minutes
_MOST_OVERVIEWS_OF_ONE = 3
_GONE = "the image is gone: it was deleted"


class Pictures:
    """Makes pictures in child processes, and keeps them as files.

    Parameters
    ----------
    pool : ComputePool
        Half of it is for overviews.
    blobs : Blobs
    most_waiting : int
        Pictures that may wait to be made; more are refused.
    most_of_one : int
        Of these, that one user asked for.
    overview_seconds : float
        Most that the overview of one image may take.
    """

    def __init__(
        self,
        pool: ComputePool,
        blobs: Blobs,
        most_waiting: int = 128,
        most_of_one: int = 64,
        overview_seconds: float = 600,
    ) -> None:
        self._pool, self._blobs, self._overview_s = pool, blobs, overview_seconds
        # an overview takes minutes: neither tiles nor the overviews of other people must wait for it
        n_overviews = max(1, pool.size // 2)
        self._making = FairQueue(max(1, pool.size - n_overviews), "pictures", most_waiting, most_of_one)
        self._reducing = FairQueue(n_overviews, "large images", _MOST_OVERVIEWS, _MOST_OVERVIEWS_OF_ONE, at_once=1)
        self._overviews: dict[Path, asyncio.Task[None]] = {}
        self._asked: Counter[Path] = Counter()
        self._failed: dict[Path, tuple[float, Exception]] = {}

    async def make(self, path: Path, op: str, args: Mapping[str, Any], user: str = "") -> bytes:
        """What `op` of a child process makes, and keep it under `path`.

        Parameters
        ----------
        path : Path
        op : str
        args : dict
        user : str
            Id of who asks.

        Raises
        ------
        ComputeBusyError
            If too many wait already.
        """
        return await self._making.run(user, lambda has_left: self._made(path, op, args))

    async def make_reduced(self, path: Path, op: str, args: Mapping[str, Any], overview: Path, user: str = "") -> bytes:
        """As `make`, of an image with an overview if it needs one; one that is damaged is made again, once."""
        image = Path(args["path"])
        found = await self.overview(image, overview, user)
        try:
            return await self.make(path, op, {**args, "overview": None if found is None else str(found)}, user)
        except DamagedOverviewError:
            await to_thread.run_sync(partial(overview.unlink, missing_ok=True))
            found = await self.overview(image, overview, user)
            return await self.make(path, op, {**args, "overview": str(found)}, user)

    async def overview(self, image: Path, path: Path, user: str = "") -> Path | None:
        """The overview of a large TIFF, kept under `path` and made once; ``None`` for other images.

        It is made to its end, also if who asked for it leaves, unless others wait for a place. What failed fails at
        once for some minutes: each tile of the image asks for it.

        Raises
        ------
        ComputeBusyError
        BlastdetError
            If the image was deleted meanwhile, or cannot be reduced.
        OSError
            If the disk is full.
        """
        if not await to_thread.run_sync(_is_tiff, image):
            return None
        if await to_thread.run_sync(path.is_file):
            return path
        if (n := self._asked[path]) >= _MOST_FOR_ONE:
            raise ComputeBusyError(f"busy: {n} requests wait for this image already. Try again in a few seconds")
        if path not in self._overviews:
            task = self._overviews[path] = asyncio.ensure_future(self._make_overview(image, path, user))
            task.add_done_callback(partial(self._forget, path))
        self._asked[path] += 1
        try:
            await asyncio.shield(self._overviews[path])
        finally:
            self._asked[path] -= 1
            self._asked += Counter()  # drop images without waiting requests
        return path

    def _forget(self, path: Path, task: asyncio.Task[None]) -> None:
        del self._overviews[path]
        if not task.cancelled():
            task.exception()  # so that asyncio does not report it where all clients have left

    async def _make_overview(self, image: Path, path: Path, user: str) -> None:
        now = time.monotonic()
        self._failed = {one: (end, error) for one, (end, error) in self._failed.items() if end > now}
        if path in self._failed:
            raise self._failed[path][1].with_traceback(None)
        try:
            await self._reducing.run(user, lambda has_left: self._reduce(image, path))
            if not path.is_file():
                raise OSError(errno.ENOSPC, "no room for an overview")
        except ComputeBusyError:
            raise
        except (BlastdetError, OSError) as error:
            why = error if image.is_file() else BlastdetError(_GONE)
            seconds = _FULL_S if isinstance(why, OSError) and why.errno in NO_SPACE else _FAILED_S
            self._failed[path] = (time.monotonic() + seconds, why)
            raise why from None

    def _reduce(self, image: Path, path: Path) -> None:
        end = time.monotonic() + self._overview_s

        def is_unwanted() -> bool:
            return not self._asked[path] and self._reducing.is_waited_for

        watch = Watch(is_cancelled=lambda: time.monotonic() > end or is_unwanted() or not image.is_file())
        try:
            self._made(path, "overview", {"path": str(image)}, watch)
        except ComputeCancelledError:
            if is_unwanted():
                raise ComputeBusyError("busy: others wait for their large images") from None
            what = f"expected an image that is read once within {self._overview_s:g} s, got a slower one"
            raise BlastdetError(f"{what}. Save it upright and in tiles, and upload it again") from None

    def _made(self, path: Path, op: str, args: Mapping[str, Any], watch: Watch | None = None) -> bytes:
        if path.is_file():  # somebody else asked for it
            return path.read_bytes()
        found, content = self._pool.call(op, dict(args), watch=watch)
        for name, n_bytes in found.get("more", ()):
            self._blobs.cached(path.with_name(name), content[-n_bytes:])
            content = content[:-n_bytes]
        self._blobs.cached(path, content, sync=op == "overview")
        return content


def _is_tiff(image: Path) -> bool:
    """As `is_tiff`, with errors that do not say where the image is kept."""
    try:
        return is_tiff(image)
    except ImageError:
        raise BlastdetError("the image cannot be read" if image.is_file() else _GONE) from None
