"""Throughput, latency and memory of `blastdet serve` on this machine: python benchmarks/service.py [--requests N]

Clients and servers talk over the loopback address only. Clients are threads with `http.client`: they have the same
cores as the server, and should take little of them. Images of 640 x 480 go to ``/detect``; smears of 12 megapixels
are uploaded, analyzed by a job, and deleted. The bare library reads the same files in this process, as many at once as
there are clients, up to `blastdet.core.parallel.workers`; the service has that many workers for jobs. It does so
between the blocks of requests, so that both have the same cores and the same other load; the ratio is of all blocks
together. Memory is the proportional set size of all processes of a server.

Peers, with the shipped detector as an ONNX file of ultralytics: a FastAPI route around ultralytics
(peers/serve_ultralytics.py), and LitServe (peers/serve_litserve.py), which uv installs to runs/bench/litserve. They see
640 pixels and find boxes only; blastdet reads at its own scale, and also types and counts the cells.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import itertools
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from speed import BCCD_MPP, DATA, FILM_MPP, MODEL, RUNS, SCRIPTS, export_for_peers

from blastdet.core.parallel import map_ordered, workers

ONNX = MODEL.with_suffix(".onnx")
LITSERVE = RUNS / "litserve"
_BLOCKS = 4
_START_S = 600.0


def main() -> None:
    """Measure, print the table, and write it to service.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="small images of each row; 0: none")
    parser.add_argument("--smears", type=int, default=32, help="smears of each row; 0: none")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    asked = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        small = small_images(Path(folder))
        rows = [*of_service(Path(folder), small, asked), *of_peers(small, asked)]
    (RUNS / "service.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("| work | clients | images/s | of the library | p50 | p95 | memory, begin to end |\n" + "|---" * 7 + "|")
    for one in rows:
        times = " | ".join(f"{1000 * one[name]:.0f} ms" for name in ("p50", "p95"))
        memory = " to ".join(f"{size:.0f}" for size in one["MB"])
        figures = f"{one['per_s']:.2f} | {one['ratio']:.2f}"
        print(f"| {one['work']} | {one['clients']} | {figures} | {times} | {memory} MB |")


def of_service(folder: Path, small: Sequence[Path], asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of `blastdet serve`."""
    with server([sys.executable, "-m", "blastdet", *SERVE, "--data", str(folder / "data")]) as (process, url):
        until_ready(f"{url}/readyz")
        contents = [path.read_bytes() for path in small]

        def detect(client: Client, i: int) -> None:
            client.ask("POST", f"/api/v1/detect?mpp={BCCD_MPP}", contents[i % len(contents)])

        for n in asked.clients if asked.requests else ():
            found = compared(detect, bare(small, BCCD_MPP), asked.requests, n, (process, url))
            yield row("service, 640 x 480", n, found)
        if not asked.smears:
            return
        smear = large_image(folder)
        content = smear.read_bytes()

        def analyze(client: Client, i: int) -> None:
            smear_job(client, content)

        for n in asked.clients:
            found = compared(analyze, bare([smear], FILM_MPP), asked.smears, n, (process, url))
            yield row("service, 4000 x 3000", n, found)


SERVE = ("serve", "--port", "0", "--requests-per-minute", "0", "--workers", str(workers()))


class Client:
    """One connection to a server, kept open.

    Parameters
    ----------
    url : str
        Of the server.
    """

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_START_S)

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer to a request; ends the benchmark if it is refused."""
        kind = "application/json" if body and body.startswith(b"{") else "application/octet-stream"
        self._connection.request(method, path, body, {"Content-Type": kind})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def smear_job(client: Client, content: bytes) -> None:
    """Upload, ask, wait, delete; the bytes after the end of the image make it another file."""
    base = "/api/v1"
    smear = json.loads(client.ask("POST", f"{base}/smears", content + secrets.token_bytes(8)))["id"]
    asked = json.dumps({"mpp": FILM_MPP}).encode()
    job = json.loads(client.ask("POST", f"{base}/smears/{smear}/analyses", asked))
    while job["state"] in ("queued", "running"):
        job = json.loads(client.ask("GET", f"{base}/jobs/{job['id']}?wait=4"))
    if job["state"] != "done":
        raise SystemExit(f"job: {job['state']} ({job['error']})")
    client.ask("DELETE", f"{base}/smears/{smear}")


def of_peers(small: Sequence[Path], asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of other servers with small images."""
    for name in asked.peers if asked.requests else ():
        export()
        command, body = PEERS[name]
        bodies = [body(path.read_bytes()) for path in small]
        with server(command()) as (process, url):
            path = urlsplit(url).path

            def detect(client: Client, i: int, path: str = path, bodies: list[bytes] = bodies) -> None:
                client.ask("POST", path, bodies[i % len(bodies)])

            until_answers(lambda url=url, bodies=bodies: httpx.post(url, content=bodies[0], timeout=60))
            for n in asked.clients:
                found = compared(detect, bare(small, BCCD_MPP), asked.requests, n, (process, url))
                yield row(f"{name}, 640 x 480", n, found)


def ultralytics_server() -> list[str]:
    """The command of the naive server, in this environment."""
    return [sys.executable, str(SCRIPTS / "serve_ultralytics.py"), str(ONNX)]


def litserve_server() -> list[str]:
    """The command of LitServe, in an environment of its own on top of this one."""
    python = LITSERVE / "bin/python"
    if not (LITSERVE / "installed").is_file():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(LITSERVE)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), "litserve"], check=True)
        (site,) = LITSERVE.glob("lib/python*/site-packages")
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (site / "ours.pth").write_text(f"{ours}\n", encoding="utf-8")
        (LITSERVE / "installed").touch()
    return [str(python), str(SCRIPTS / "serve_litserve.py"), str(ONNX), str(len(os.sched_getaffinity(0)))]


def in_json(content: bytes) -> bytes:
    """An image as LitServe takes it."""
    return json.dumps({"image": base64.b64encode(content).decode()}).encode()


PEERS: dict[str, tuple[Callable[[], list[str]], Callable[[bytes], bytes]]] = {
    "FastAPI and ultralytics": (ultralytics_server, bytes),
    "LitServe and ultralytics": (litserve_server, in_json),
}
"""Name -> its command, and an image as the body of a request."""


def export() -> None:
    """Write the shipped detector as an ONNX file that ultralytics reads, unless that is done."""
    if ONNX.is_file():
        return
    if not MODEL.is_file():
        export_for_peers()
    from ultralytics import YOLO

    YOLO(str(MODEL)).export(format="onnx", imgsz=640, simplify=False, verbose=False)


def bare(paths: Sequence[Path], mpp: float) -> Callable[[int, int], None]:
    """The bare library on so many images, so many at once: read, analyze, write JSON."""
    from blastdet.inference.model import Options, load
    from blastdet.inference.writers import json_lines

    model, options = load("default", "cpu"), Options(mpp=(mpp, mpp))

    def once(i: int) -> None:
        "".join(json_lines(model.analyze(paths[i % len(paths)], options)))

    def several(n: int, at_once: int) -> None:
        for _ in map_ordered(once, range(n), min(at_once, workers())):
            pass

    several(1, 1)
    return several


def compared(
    work: Callable[[Client, int], None],
    library: Callable[[int, int], None],
    n_requests: int,
    clients: int,
    served: tuple[psutil.Process, str],
) -> dict[str, Any]:
    """Blocks of requests and of the bare library in turns."""
    process, url = served
    load(url, work, min(2 * clients, n_requests), clients)
    begin, spent, alone, latencies = memory_mb(process), 0.0, 0.0, list[float]()
    blocks = min(_BLOCKS, n_requests)
    each = n_requests // blocks
    for _ in range(blocks):
        start = time.perf_counter()
        library(each, clients)
        alone += time.perf_counter() - start
        start = time.perf_counter()
        latencies += load(url, work, each, clients)
        spent += time.perf_counter() - start
    n = each * blocks
    return {"n": n, "s": spent, "library_s": alone, "latencies": latencies, "MB": (begin, memory_mb(process))}


def load(url: str, work: Callable[[Client, int], None], n_requests: int, clients: int) -> list[float]:
    """Seconds of each request; each client waits for an answer before it asks again."""
    numbers, times, errors = itertools.count(), list[float](), list[BaseException]()

    def run() -> None:
        with closing(Client(url)) as client:
            try:
                while (i := next(numbers)) < n_requests and not errors:
                    start = time.perf_counter()
                    work(client, i)
                    times.append(time.perf_counter() - start)
            except BaseException as error:  # noqa: BLE001  # shown by the main thread
                errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(min(clients, n_requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise SystemExit(f"a request failed: {errors[0]}")
    return times


def row(work: str, clients: int, found: dict[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    times = sorted(found.pop("latencies"))
    p50, p95 = statistics.median(times), times[min(len(times) - 1, int(0.95 * len(times)))]
    ratio = found["library_s"] / found["s"]
    done = {"work": work, "clients": clients, "per_s": found["n"] / found["s"], "ratio": ratio, "p50": p50, "p95": p95}
    print(json.dumps(done), file=sys.stderr, flush=True)
    return done | found


def memory_mb(process: psutil.Process) -> float:
    """Proportional set size of a process and all below it."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss / 2**20
        except psutil.NoSuchProcess:
            continue
    return total


@contextmanager
def server(command: list[str]) -> Iterator[tuple[psutil.Process, str]]:
    """A server that prints its address; it is ended with all its processes."""
    environment = os.environ | {"YOLO_CONFIG_DIR": str(RUNS), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    with tempfile.TemporaryFile() as log:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        process = psutil.Process(run.pid)
        try:
            assert run.stdout is not None
            found = next(filter(None, (re.search(r"http://[^\s)]+", line) for line in run.stdout)), None)
            if found is None:
                log.seek(0)
                raise SystemExit(f"{command[:3]}: {log.read()[-2000:].decode()}")
            yield process, found[0]
        finally:
            below = process.children(recursive=True) if process.is_running() else []
            run.terminate()
            try:
                run.wait(60)
            except subprocess.TimeoutExpired:
                run.kill()
            for one in psutil.wait_procs(below, timeout=5)[1]:
                one.kill()


def until_ready(url: str) -> None:
    """Wait until an address answers with success."""
    until_answers(lambda: httpx.get(url, timeout=30))


def until_answers(ask: Callable[[], httpx.Response]) -> None:
    """Call again until it succeeds."""
    end = time.monotonic() + _START_S
    while True:
        try:
            ask().raise_for_status()
        except httpx.HTTPError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)
        else:
            return


def small_images(folder: Path) -> list[Path]:
    """Images of 640 x 480: of BCCD where it is, else synthetic."""
    found = sorted((DATA / "bccd").rglob("*.jpg"))[:32]
    return found or synthetic(folder / "small", "640x480", BCCD_MPP, 8)


def large_image(folder: Path) -> Path:
    """A synthetic smear of 12 megapixels."""
    return synthetic(folder / "large", "4000x3000", FILM_MPP, 1)[0]


def synthetic(folder: Path, size: str, mpp: float, n: int) -> list[Path]:
    """Synthetic images in a new folder."""
    words = ["synth", str(folder), "--size", size, "--mpp", f"{mpp}", "--n", f"{n}", "--seed", "5"]
    subprocess.run([sys.executable, "-m", "blastdet", *words], check=True, stdout=subprocess.DEVNULL)
    return sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))


if __name__ == "__main__":
    main()
