"""What runs in each process of a service: ``python -m blastdet.service.processes web`` or ``... worker``."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from typing import Any

from blastdet.core.errors import BlastdetError
from blastdet.service import service_log
from blastdet.service.settings import ServiceSettings

SOCKET = "BLASTDET_SOCKET"
"""Environment: number of the socket that the supervisor listens on."""

SUPERVISOR = "BLASTDET_SUPERVISOR"
"""Environment: number of the process that started this one."""

WORKER = "BLASTDET_WORKER"
"""Environment: name of a worker, new for each process."""

_GRACE_S = 5
_GIVE_BACK_S = 20.0


def run_web(settings: ServiceSettings) -> None:
    """Serve requests on the socket of the supervisor until SIGTERM."""
    import uvicorn

    from blastdet.service.api.app import make_app, make_service
    from blastdet.service.pages.page_routes import add_pages
    from blastdet.service.security.certificates import check_pair
    from blastdet.service.security.connections import over_tls, protocol_with

    check_pair(settings.tls_certificate, settings.tls_key)  # they may have changed since the service began
    service = make_service(settings)
    app = make_app(service)
    add_pages(app)
    http: Any = protocol_with(settings.silence_seconds, service.connections, service.gate.is_trusted)
    if settings.tls_certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 and later
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
        http = over_tls(http, context, service.handshakes)
    config = uvicorn.Config(
        app,
        http=http,
        ws="none",  # another protocol would take the connection away from this one, which counts it
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=30,
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(os.environ[SOCKET]))])


def run_worker(settings: ServiceSettings) -> None:
    """Do jobs until SIGTERM; the job in hand is given back."""
    from blastdet.service.compute.pool import ComputeLimits, ComputeProcess
    from blastdet.service.jobs.backend import HueyBackend
    from blastdet.service.jobs.runner import Runner
    from blastdet.service.offered_models import offered_models
    from blastdet.service.store.blobs import Blobs
    from blastdet.service.store.database import Database

    models = offered_models(settings)
    limits = ComputeLimits(settings.memory_mb, settings.stall_seconds, settings.device)
    compute = ComputeProcess(limits, [str(model.folder) for model in list(models.values())[:1]])
    runner = Runner(
        name=os.environ[WORKER],
        database=Database(settings.database_url),
        blobs=Blobs(settings.data),
        compute=compute,
        models=models,
        attempts=settings.attempts,
        most_large=max(settings.workers - 1, 1),
    )

    def on_start(must_stop: Any) -> None:
        runner.must_stop = must_stop

    HueyBackend(settings.data / "queue.db").work(runner.drain, on_start)
    runner.wait(_GIVE_BACK_S)
    compute.stop()


def _end_with(parent: int) -> None:
    """End this process when the supervisor is gone, also if it went while this process started."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S + 2)
    os._exit(1)


def main() -> None:
    """Run what the first argument says."""
    service_log.set_up()
    threading.Thread(target=_end_with, args=(int(os.environ[SUPERVISOR]),), daemon=True).start()
    settings = ServiceSettings.from_environment()
    try:
        {"web": run_web, "worker": run_worker}[sys.argv[1]](settings)
    except BlastdetError as error:  # what the operator can mend; the supervisor tries again
        service_log.say("process.cannot_start", logging.ERROR, kind=sys.argv[1], error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
