"""What one user may keep on disk: looked at before bytes arrive, while they do, and when they are kept."""

from __future__ import annotations

from sqlalchemy.orm import Session

from blastdet.service.http.context import Service
from blastdet.service.security.callers import Caller
from blastdet.service.store import smears
from blastdet.service.store.blobs import NoRoomError


def check_room(service: Service, session: Session, caller: Caller, n_bytes: int) -> None:
    """See that a user may keep so many bytes more; `NoRoomError` otherwise."""
    most = service.settings.user_disk
    if most is not None and (used := smears.used_bytes(session, caller.user_id)) + n_bytes > most:
        raise NoRoomError(most, used)


class ArrivingQuota:
    """Bytes of a user that arrive, of all uploads at once: no more than there is room for.

    The bytes of a smear that is there may come again, whatever the room: the answer is that smear. So as many as the
    largest smear has may arrive at any time.

    Parameters
    ----------
    service : Service
    caller : Caller
    """

    def __init__(self, service: Service, caller: Caller) -> None:
        self._arriving, self._user_id = service.arriving, caller.user_id
        self._most, self._taken = service.settings.user_disk, 0
        if self._most is None:
            return
        with service.database.read() as session:
            self._used = smears.used_bytes(session, caller.user_id)
            self._limit = max(self._most - self._used, smears.largest_bytes(session, caller.user_id))

    def check(self, n_bytes: int) -> None:
        """See that so many bytes more may arrive; `NoRoomError` otherwise."""
        if self._most is not None and self._arriving[self._user_id] + n_bytes > self._limit:
            raise NoRoomError(self._most, self._used)

    def take(self, n_bytes: int) -> None:
        """Count bytes that arrived; `NoRoomError` if they are too many."""
        self._taken += n_bytes
        self._arriving[self._user_id] += n_bytes
        self.check(0)

    def give_back(self) -> None:
        """End the counting: the bytes are kept, or gone."""
        self._arriving[self._user_id] -= self._taken
        self._taken = 0
