"""Kill a running service at random points, and look whether it kept its promises (``make chaos``).

A promise is an answer: a 201 for a smear, a 202 for a job. Each smear must be there with its bytes, and each job must
end with one result. No file may be left that no row names, nor a row without its file.
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
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
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

    def ask(self) -> None:
        """Upload a smear and ask for some analyses; what is not answered is no promise."""
        with suppress(httpx.HTTPError, AssertionError), self.service.client() as client:
            content = self._image()
            answer = client.post("/smears", params={"name": "smear.png"}, content=content)
            if answer.status_code != 201:
                return
            smear = answer.json()["id"]
            self.smears[smear] = hashlib.sha256(content).hexdigest()
            for _ in range(_JOBS_AT_ONCE):
                score = round(self.random.random(), 6)
                job = client.post(f"/smears/{smear}/analyses", json={"mpp": 0.1, "min_score": score})
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
        """Promises that were not kept; for a service that has ended in order and started again."""
        data, found = self.service.data, []
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
        with closing(sqlite3.connect(data / "blastdet.db")) as database:
            smears = {row[0] for row in database.execute("SELECT id FROM smears")}
            analyses = dict(database.execute("SELECT id, smear_id FROM analyses").fetchall())
            asked = Counter(database.execute("SELECT smear_id, key FROM jobs").fetchall())
            kept = Counter(database.execute("SELECT smear_id, key FROM analyses").fetchall())
        found += [f"job {one[0]}: asked once, {asked[one]} rows" for one in asked if asked[one] != 1]
        found += [f"analysis of {one[0]}: {kept[one]} results" for one in asked if kept[one] != 1]
        done = Counter(one["job"] for one in self.service.events() if one["event"] == "job.done")
        found += [f"job {one}: done {n} times" for one, n in done.items() if n > 1]
        return found + _stray(data, smears, analyses)


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


def main() -> None:
    """Kill, look, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), *OPTIONS) as service:
        chaos = Chaos(service, random.Random(asked.seed))
        chaos.run(asked.kills)
        service.stop()
        service.start()
        faults = chaos.faults()
        print(f"seed {asked.seed}: killed {dict(chaos.killed)}; {len(chaos.smears)} smears, {len(chaos.jobs)} jobs")
    if faults:
        raise SystemExit("\n".join(faults))
    print("every smear is there, every job was done once, no file is half or left over")


if __name__ == "__main__":
    main()
