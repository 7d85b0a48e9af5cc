"""Kill a running service at random points, take its database away, and look whether it kept its promises.

``make chaos`` does both. A promise is an answer: a 201 for a smear, a 202 for a job. Each smear must be there with its
bytes, and each job must end with one result. No file may be left that no row names, nor a row without its file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from postgres_server import control, postgres, postgres_folder
from serving import SMALL, Served, served

WHAT = ("child", "worker", "child", "web", "worker", "child", "worker", "child", "worker", "child", "worker", "server")
"""What is killed, in turns. ``server`` is all of it at once, as when the machine loses power."""

OPTIONS = ("--requests-per-minute", "0")
_JOBS_AT_ONCE = 3


@dataclass
class Chaos:
    """Asks for work and kills, and remembers what was promised.

    Parameters
    ----------
    service : Served
    random : random.Random
    """

    service: Served
    random: random.Random
    smears: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    _n: int = 0

    def run(self, kills: int) -> None:
        """Kill so often, each time in the middle of work; then let the service finish."""
        for i in range(kills):
            self.ask()
            time.sleep(self.random.random() * 1.5)
            self.kill(WHAT[i % len(WHAT)])
            self.finish(most_open=_JOBS_AT_ONCE)
        self.finish()

    def ask(self, judge: Callable[[str, httpx.Response], None] = lambda what, answer: None) -> None:
        """Upload a smear and ask for some analyses; what is not answered is no promise. `judge` sees each answer."""
        with suppress(httpx.HTTPError), self.service.client() as client:
            content = self._image()
            answer = client.post("/smears", params={"name": "smear.png"}, content=content)
            judge("POST /smears", answer)
            if answer.status_code != 201:
                return
            smear = answer.json()["id"]
            self.smears[smear] = hashlib.sha256(content).hexdigest()
            for _ in range(_JOBS_AT_ONCE):
                score = round(self.random.random(), 6)
                job = client.post(f"/smears/{smear}/analyses", json={"mpp": 0.1, "min_score": score})
                judge("POST analyses", job)
                if job.status_code == 202:
                    self.jobs[job.json()["id"]] = {"smear": smear, "score": score}

    def _image(self) -> bytes:
        """An image that no other equals: the small one with one pixel changed."""
        self._n += 1
        with Image.open(SMALL) as image:
            pixels = np.array(image.convert("RGB"))
        pixels[0, 0] = (self._n % 256, self._n // 256, 0)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()

    def kill(self, what: str) -> None:
        """kill -9; a server is started again, the rest starts by itself."""
        if what == "server":
            family = [pid for kind in ("web", "worker", "child") for pid in self.service.children(kind)]
            self.service.stop(signal.SIGKILL)
            for pid in family:
                _kill(pid)
            self.killed[what] += 1
            self.service.start()
            return
        pids = self.service.children(what)
        if pids:
            _kill(self.random.choice(pids))
            self.killed[what] += 1

    def finish(self, most_open: int = 0, seconds: float = 600) -> None:
        """Wait until at most so many jobs are open."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(httpx.HTTPError), self.service.client() as client:
                states = [client.get(f"/jobs/{one}").raise_for_status().json()["state"] for one in self.jobs]
                if sum(state in ("queued", "running") for state in states) <= most_open:
                    return
            time.sleep(0.3)
        raise AssertionError(f"jobs are not done: {self.service.log.read_text()[-2000:]}")

    def faults(self) -> list[str]:
        """Promises that were not kept, and what is left over; for a service that has ended and started again."""
        data, found = self.service.data, self.broken_promises()
        with closing(sqlite3.connect(data / "blastdet.db")) as database:
            smears = {row[0] for row in database.execute("SELECT id FROM smears")}
            analyses = dict(database.execute("SELECT id, smear_id FROM analyses").fetchall())
            asked = Counter(database.execute("SELECT smear_id, key FROM jobs").fetchall())
            kept = Counter(database.execute("SELECT smear_id, key FROM analyses").fetchall())
        found += [f"job {one[0]}: asked once, {asked[one]} rows" for one in asked if asked[one] != 1]
        found += [f"analysis of {one[0]}: {kept[one]} results" for one in asked if kept[one] != 1]
        return found + _stray(data, smears, analyses)

    def broken_promises(self) -> list[str]:
        """Smears that are gone or changed, and jobs that were not done, or more than once."""
        found = []
        with self.service.client() as client:
            for smear, sha256 in self.smears.items():
                if hashlib.sha256(client.get(f"/smears/{smear}/image").content).hexdigest() != sha256:
                    found.append(f"smear {smear}: not the bytes that were uploaded")
            for job_id in self.jobs:
                job = client.get(f"/jobs/{job_id}").json()
                if job["state"] != "done":
                    found.append(f"job {job_id}: {job['state']} after {job['attempts']}: {job['error']}")
                elif client.get(f"/analyses/{job['analysis']}/result.json").status_code != 200:
                    found.append(f"job {job_id}: its result cannot be read")
        done = Counter(one["job"] for one in self.service.events() if one["event"] == "job.done")
        return found + [f"job {one}: done {n} times" for one, n in done.items() if n > 1]


def _stray(data: Path, smears: set[str], analyses: dict[str, str]) -> list[str]:
    """Files that no row names, rows without a file, and half files."""
    found = [
        f"{path.name}: left in {path.parent.name}"
        for name in ("temporary", "trash")
        for path in (data / name).iterdir()
    ]
    found += [f"{one.name}: a smear without a row" for one in data.glob("smears/??/*") if one.name not in smears]
    found += [
        f"{one}: a row without its image" for one in smears if not (data / "smears" / one[:2] / one / "image").is_file()
    ]
    for folder in data.glob("smears/??/*/analyses/*"):
        if folder.name not in analyses:
            found.append(f"{folder.name}: an analysis without a row")
    for one, smear in analyses.items():
        record = data / "smears" / smear[:2] / smear / "analyses" / one / "record.json"
        try:
            json.loads(record.read_bytes())
        except (OSError, ValueError):
            found.append(f"{one}: a result that is not whole")
    return found


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@dataclass
class Load:
    """Clients that ask all the time, and what was wrong with their answers.

    Parameters
    ----------
    chaos : Chaos
    """

    chaos: Chaos
    faults: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    _is_over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask until the block ends."""
        works = (self._upload, self._look, self._detect)
        threads = [threading.Thread(target=self._until_over, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
            time.sleep(0.1)  # threads that begin at once under coverage can break each other's trace function
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()

    def _until_over(self, work: Callable[[httpx.Client], None]) -> None:
        """Do something again and again; an error of the connection is a fault of the service, too."""
        with self.chaos.service.client() as client:
            while not self._is_over.is_set():
                try:
                    work(client)
                except Exception as error:  # noqa: BLE001
                    self.faults.append(f"{work.__name__}: {error!r:.300}")
                time.sleep(0.1)

    def _upload(self, client: httpx.Client) -> None:
        self.chaos.ask(self._judge)

    def _look(self, client: httpx.Client) -> None:
        for path in ("/smears", "/jobs", *(f"/smears/{one}" for one in [*self.chaos.smears][-3:])):
            self._judge(path, client.get(path))

    def _detect(self, client: httpx.Client) -> None:
        self._judge("/detect", client.post("/detect?mpp=0.1", content=SMALL.read_bytes()))

    def _judge(self, what: str, answer: httpx.Response) -> None:
        """Allowed are success, and 503 with ``Retry-After``."""
        self.statuses[answer.status_code] += 1
        if not answer.is_success and not (answer.status_code == 503 and "retry-after" in answer.headers):
            self.faults.append(f"{what}: {answer.status_code} {answer.text[:300]}")


def without_database(folder: Path, seconds: float) -> tuple[Load, list[str]]:
    """Stop PostgreSQL under load without warning, start it again after so many seconds; returns what went wrong."""
    with postgres() as url, served(folder, "--database", url, *OPTIONS) as service:
        load = Load(Chaos(service, random.Random(0)))
        with load.running():
            time.sleep(3)
            control(url, "stop")
            try:
                for path, status in (("/healthz", 200), ("/readyz", 503)):
                    if (answer := httpx.get(service.url + path, timeout=60)).status_code != status:
                        load.faults.append(f"{path}: expected {status} without a database, got {answer.status_code}")
                time.sleep(seconds)
            finally:
                control(url, "start")
            service.wait_until_ready()
            time.sleep(3)
        load.chaos.finish()
        faults = [*load.faults, *load.chaos.broken_promises()]
        if not (load.statuses[200] and load.statuses[503] and load.chaos.jobs):
            faults.append(f"no load, or the database was not away: {dict(load.statuses)}, {len(load.chaos.jobs)} jobs")
        return load, faults


def main() -> None:
    """Kill, look, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--away", type=float, default=30, help="seconds without a database; 0: do not")
    asked = parser.parse_args()
    faults = []
    if asked.away and postgres_folder() is None:
        raise SystemExit("expected PostgreSQL, which is not installed. Pass --away 0 to leave that part out")
    if asked.away:
        with tempfile.TemporaryDirectory() as folder:
            load, faults = without_database(Path(folder), asked.away)
        print(f"database away for {asked.away:g} s: answers {dict(sorted(load.statuses.items()))}, ", end="")
        print(f"{len(load.chaos.smears)} smears, {len(load.chaos.jobs)} jobs", flush=True)
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), *OPTIONS) as service:
        chaos = Chaos(service, random.Random(asked.seed))
        chaos.run(asked.kills)
        service.stop()
        service.start()
        faults += chaos.faults()
        print(f"seed {asked.seed}: killed {dict(chaos.killed)}; {len(chaos.smears)} smears, {len(chaos.jobs)} jobs")
    if faults:
        raise SystemExit("\n".join(faults))
    print("every smear is there, every job was done once, no file is half or left over")


if __name__ == "__main__":
    main()
