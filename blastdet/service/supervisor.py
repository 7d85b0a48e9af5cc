"""``blastdet serve``: opens database and socket, starts the web process and the workers, and starts again what ends."""

from __future__ import annotations

import ipaddress
import logging
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from blastdet.core.atomic_io import locked
from blastdet.core.errors import BlastdetError, in_a_line
from blastdet.service import service_log
from blastdet.service.jobs.backend import HueyBackend
from blastdet.service.jobs.reconciler import Reconciler
from blastdet.service.offered_models import offered_models
from blastdet.service.processes import SOCKET, SUPERVISOR, WORKER
from blastdet.service.security.callers import check_reachable
from blastdet.service.security.certificates import check_pair, doubts
from blastdet.service.settings import ServiceSettings
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.database import open_database

_LOOK_S = 0.2
_TICK_S = 2.0
_STOP_S = 30.0
_LONGEST_PAUSE_S = 30.0
_WELL_S = 60.0  # after which a process counts as running well
_BACKLOG = 2048
_IN_USE = "expected a folder that no service uses, got that of one which runs. Stop it, or pass another --data"
_MOST_NAMED = 3  # host names in a line
_UNENCRYPTED = (
    "Passwords and images travel unencrypted. Pass --tls-certificate and --tls-key, or name a proxy that has TLS with "
    "--trusted-proxy."
)
_MOST_FILES = 2**16


@dataclass
class _Process:
    """A process that runs as long as the service does."""

    kind: str
    environment: dict[str, str]
    sockets: tuple[int, ...] = ()
    name: str = ""
    handle: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    pause: float = 0.0

    def start(self) -> None:
        self.name = f"{self.kind}-{secrets.token_hex(8)}"
        self.handle = subprocess.Popen(
            [sys.executable, "-m", "blastdet.service.processes", self.kind],
            env={**self.environment, SUPERVISOR: str(os.getpid()), WORKER: self.name},
            pass_fds=self.sockets,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.began = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time to start it again; the pause grows while it ends quickly."""
        return time.monotonic() > self.began + self.pause

    def ended(self) -> int | None:
        return None if self.handle is None else self.handle.poll()

    def stop(self, number: int) -> None:
        if self.handle is not None and self.handle.poll() is None:
            self.handle.send_signal(number)


@dataclass
class Supervisor:
    """Runs a service in this process and its children.

    Parameters
    ----------
    settings : ServiceSettings
    say : callable
        Prints a line for the operator.
    """

    settings: ServiceSettings
    say: Callable[[str], None] = print
    _stop: threading.Event = field(default_factory=threading.Event)
    _is_told_to_stop: bool = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises
        ------
        BlastdetError
            If the service cannot start: no authentication, a port in use, a database that does not answer.
        """
        settings = self.settings
        offered_models(settings)
        check_pair(settings.tls_certificate, settings.tls_key)
        for line in doubts(settings.tls_certificate, settings.tls_key):
            service_log.say("certificate.doubtful", logging.WARNING, warning=line)
        with locked(settings.data, _IN_USE):
            blobs = Blobs(settings.data)
            database = open_database(settings.database_url)
            mode = check_reachable(settings, database)
            backend = HueyBackend(settings.data / "queue.db")
            reconciler = Reconciler(database, blobs, backend, settings.workers, settings.attempts, settings.keep_days)
            reconciler.begin()
            with listening(settings) as listener:
                self._say_where(listener, mode)
                self._watch(self._processes(listener), reconciler)
            database.close()

    def stop(self, *_: Any) -> None:
        """End the service in order; also a signal handler.

        A flag and no event: a signal that comes while this thread takes the lock of an event would wait for it forever.
        """
        self._is_told_to_stop = True

    def _say_where(self, listener: socket.socket, mode: str) -> None:
        host, port = listener.getsockname()[:2]
        names, where = [f"[{host}]" if ":" in host else host], ""
        address = ipaddress.ip_address(host.partition("%")[0])
        if address.is_unspecified:  # a browser cannot open 0.0.0.0
            names, where = [*self.settings.allowed_hosts[:_MOST_NAMED]] or [socket.gethostname()], "on all addresses; "
        known = {"none": "no log-in, this machine only", "users": "log-in by name and password or token"}
        how = known.get(mode, f"users known by the header {self.settings.auth_header}")
        addresses = " and ".join(f"{self.settings.scheme}://{in_a_line(name)}:{port}" for name in names)
        self.say(f"blastdet serves {addresses} ({where}{how}). Ctrl-C stops it.")
        if not (address.is_loopback or self.settings.tls_certificate or self.settings.trusted_proxies):
            self.say(_UNENCRYPTED)

    def _processes(self, listener: socket.socket) -> list[_Process]:
        environment = self.settings.to_environment()
        number = listener.fileno()
        web = _Process("web", {**environment, SOCKET: str(number)}, (number,))
        return [web, *(_Process("worker", environment) for _ in range(self.settings.workers))]

    def _watch(self, processes: list[_Process], reconciler: Reconciler) -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self.stop)
        looking = threading.Thread(target=self._look_after, args=(reconciler,), daemon=True)
        try:
            for process in processes:
                process.start()
            looking.start()
            while not self._is_told_to_stop:
                time.sleep(_LOOK_S)
                for process in processes:
                    self._revive(process, reconciler)
        finally:
            self._stop.set()
            _end(processes)

    def _revive(self, process: _Process, reconciler: Reconciler) -> None:
        code = process.ended()
        if code is not None:
            service_log.say("process.ended", kind=process.kind, code=code)
            process.handle = None
            well = time.monotonic() - process.began > _WELL_S
            process.pause = 0.0 if well else min(max(2 * process.pause, 0.5), _LONGEST_PAUSE_S)
            if process.kind == "worker":
                _tolerantly(lambda: reconciler.worker_ended(process.name))
        if process.handle is None and process.is_due():
            process.start()

    def _look_after(self, reconciler: Reconciler) -> None:
        while not self._stop.wait(_TICK_S):
            _tolerantly(reconciler.tick)


def _tolerantly(do: Callable[[], Any]) -> None:
    """Call `do`; a database or a disk that fails now is tried again at the next look."""
    try:
        do()
    except Exception:  # noqa: BLE001  # otherwise nothing would look after the jobs
        service_log.failed("reconciler")


def _end(processes: list[_Process]) -> None:
    for process in processes:
        process.stop(signal.SIGTERM)
    end = time.monotonic() + _STOP_S
    for process in processes:
        if process.handle is None:
            continue
        try:
            process.handle.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.stop(signal.SIGKILL)
            process.handle.wait()


def listening(settings: ServiceSettings) -> socket.socket:
    """A socket that listens where the settings say; requests wait in it while the web process starts again.

    Raises
    ------
    BlastdetError
        If the address is not of this machine, or in use.
    """
    host = settings.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        os.set_inheritable(listener.fileno(), True)
    except OSError as error:
        what = error.strerror or str(error)
        raise BlastdetError(
            f"{settings.host}:{settings.port}: cannot listen there ({what}). Pass another --port"
        ) from None
    return listener


def _allow_many_files() -> None:
    """Each connection and each file that arrives takes a number; a process has 1,024 unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def serve(settings: ServiceSettings, say: Callable[[str], None] = print) -> None:
    """Run a service until SIGTERM or SIGINT; see `Supervisor`."""
    service_log.set_up()
    _allow_many_files()
    Supervisor(settings, say).run()
