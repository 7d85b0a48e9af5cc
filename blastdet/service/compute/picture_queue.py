"""Pictures for browsers, made once: few threads of their own make them, so that a rush holds up nothing else."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, Lock, to_thread

from blastdet.core.errors import BlastdetError, ImageError
from blastdet.imaging.io import is_tiff
from blastdet.service.compute.pipe import DamagedOverviewError
from blastdet.service.compute.pool import ComputeBusyError, ComputePool, Watch
from blastdet.service.store.blobs import Blobs

_FAILED_S = 300.0
_FULL_S = 10.0  # a full disk may have room again
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MOST_FOR_ONE = 8  # requests that may wait for the same overview: those of a browser, not all there may be
_MOST_OVERVIEWS = 3  # of the smears of one user, that are waited for: each takes minutes
_AGAIN = "Try again in a few seconds"
_GONE = "the image is gone: it was deleted"


class Pictures:
    """Makes pictures in child processes, and keeps them as files.

    Parameters
    ----------
    pool : ComputePool
    blobs : Blobs
    most_waiting : int
        Pictures that may wait to be made; more are refused.
    most_of_one : int
        Of these, of the smears of one user.
    """

    def __init__(self, pool: ComputePool, blobs: Blobs, most_waiting: int = 128, most_of_one: int = 64) -> None:
        self._pool, self._blobs, self._most, self._most_of_one = pool, blobs, pool.size + most_waiting, most_of_one
        self._asked: Counter[str] = Counter()
        self._reducing: Counter[str] = Counter()
        self._making = CapacityLimiter(max(pool.size - 1, 1))
        self._overviews = CapacityLimiter(1)  # one takes minutes: tiles of other smears must not wait for it
        self._making_overview: WeakValueDictionary[Path, Lock] = WeakValueDictionary()
        self._failed: dict[Path, tuple[float, Exception]] = {}

    async def kept(self, path: Path) -> bytes | None:
        """A picture that was made before."""
        try:
            return await to_thread.run_sync(path.read_bytes)
        except FileNotFoundError:
            return None

    async def make(self, path: Path, op: str, args: Mapping[str, Any], owner: str = "") -> bytes:
        """What `op` of a child process makes, and keep it under `path`.

        Parameters
        ----------
        path : Path
        op : str
        args : dict
        owner : str
            Id of the user whose smear it shows.

        Raises
        ------
        ComputeBusyError
            If too many wait already.
        """
        with self._counted(owner):
            return await to_thread.run_sync(partial(self._made, path, op, args), limiter=self._making)

    async def make_reduced(
        self, path: Path, op: str, args: Mapping[str, Any], overview: Path, owner: str = ""
    ) -> bytes:
        """As `make`, of an image with an overview if it needs one; one that is damaged is made again, once."""
        image = Path(args["path"])
        found = await self.overview(image, overview, owner)
        try:
            return await self.make(path, op, {**args, "overview": None if found is None else str(found)}, owner)
        except DamagedOverviewError:
            await to_thread.run_sync(partial(overview.unlink, missing_ok=True))
            found = await self.overview(image, overview, owner)
            return await self.make(path, op, {**args, "overview": str(found)}, owner)

    async def overview(self, image: Path, path: Path, owner: str = "") -> Path | None:
        """The overview of a large TIFF, kept under `path` and made once; ``None`` for other images.

        What failed fails at once for some minutes: each tile of the image asks for it.

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
        lock = self._making_overview.setdefault(path, Lock())
        waiting = lock.statistics().tasks_waiting
        if waiting >= _MOST_FOR_ONE:
            raise ComputeBusyError(f"busy: {waiting} requests wait for this image already. {_AGAIN}")
        with self._counted(owner):
            async with lock:  # who waits here takes no thread
                if not path.is_file():
                    with _held(self._reducing, owner, _MOST_OVERVIEWS, "large images"):
                        await self._make_overview(image, path)
        return path

    async def _make_overview(self, image: Path, path: Path) -> None:
        now = time.monotonic()
        self._failed = {one: (end, error) for one, (end, error) in self._failed.items() if end > now}
        if path in self._failed:
            raise self._failed[path][1].with_traceback(None)
        watch = Watch(is_cancelled=lambda: not image.is_file())  # that of a deleted smear is of no use
        make = partial(self._made, path, "overview", {"path": str(image)}, watch)
        try:
            await to_thread.run_sync(make, limiter=self._overviews)
            if not path.is_file():
                raise OSError(errno.ENOSPC, "no room for an overview")
        except ComputeBusyError:
            raise
        except (BlastdetError, OSError) as error:
            why = error if image.is_file() else BlastdetError(_GONE)
            seconds = _FULL_S if isinstance(why, OSError) and why.errno in _NO_SPACE else _FAILED_S
            self._failed[path] = (time.monotonic() + seconds, why)
            raise why from None

    @contextmanager
    def _counted(self, owner: str) -> Iterator[None]:
        """Count a request from the moment it comes, whatever it waits for."""
        if (asked := self._asked.total()) >= self._most:
            raise ComputeBusyError(f"busy: {asked} pictures wait already. {_AGAIN}")
        with _held(self._asked, owner, self._most_of_one, "pictures"):
            yield

    def _made(self, path: Path, op: str, args: Mapping[str, Any], watch: Watch | None = None) -> bytes:
        _, content = self._pool.call(op, dict(args), watch=watch)
        self._blobs.cached(path, content, sync=op == "overview")
        return content


@contextmanager
def _held(counter: Counter[str], owner: str, most: int, what: str) -> Iterator[None]:
    """Count one more thing of a user, of at most so many."""
    if counter[owner] >= most:
        raise ComputeBusyError(f"busy: {most} {what} of one user wait already. {_AGAIN}")
    counter[owner] += 1
    try:
        yield
    finally:
        counter[owner] -= 1
        if not counter[owner]:
            del counter[owner]


def _is_tiff(image: Path) -> bool:
    """As `is_tiff`, with errors that do not say where the image is kept."""
    try:
        return is_tiff(image)
    except ImageError:
        raise BlastdetError("the image cannot be read" if image.is_file() else _GONE) from None
