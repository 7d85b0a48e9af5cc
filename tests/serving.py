"""A real service for tests: ``blastdet serve`` in a process of its own, on SQLite or PostgreSQL."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

REPO = Path(__file__).resolve().parents[1]
SMEAR = REPO / "datasets/demo/smear.jpg"
SMALL = REPO / "datasets/demo/blood/monocyte.jpg"
API = "/api/v1"


class Served:
    """A running service.

    Parameters
    ----------
    data : Path
        Its folder.
    options : list of str
        Further options of ``blastdet serve``.
    """

    def __init__(self, data: Path, options: list[str]) -> None:
        self.data, self.options = data, options
        self.log = data.parent / f"{data.name}.log"
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = [sys.executable, "-m", "blastdet", "serve", "--data", str(self.data), *self.options]
        port = self.url.rpartition(":")[2] if self.url else "0"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", port], stdout=subprocess.PIPE, stderr=log, text=True, cwd=REPO
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"(https?)://\S+:(\d+)", line)
        assert found, f"no address: {line!r} {self.log.read_text()[-2000:]}"
        self.url = f"{found[1]}://127.0.0.1:{found[2]}"
        self.wait_until_ready()

    def wait_until_ready(self, seconds: float = 300) -> None:
        """Wait for /readyz."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=30, verify=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready: {self.log.read_text()[-2000:]}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(120)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def children(self, kind: str) -> list[int]:
        """Processes of the service: ``web``, ``worker``, or ``child`` for those that compute."""
        assert self.process is not None
        parents, found = {self.process.pid}, []
        for _ in range(3):
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except (OSError, IndexError):
                    continue
                if int(stat[1]) in parents and int(entry.name) not in parents:
                    parents.add(int(entry.name))
                    ours = line.rstrip().endswith(kind)
                    if ours or (kind == "child" and line.rstrip().endswith("compute.child")):
                        found.append(int(entry.name))
        return found

    def client(self, **options: Any) -> httpx.Client:
        """A client without credentials."""
        return httpx.Client(base_url=self.url + API, timeout=300, **options)

    def events(self) -> list[dict[str, Any]]:
        """What the service logged."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@contextmanager
def served(folder: Path, *options: str, users: dict[str, str] | None = None) -> Iterator[Served]:
    """A service with its data below `folder`; `users` are names and passwords that exist before it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    where = ["--data", str(data), *[one for pair in _pairs(options) if pair[0] == "--database" for one in pair]]
    for name, password in (users or {}).items():
        command = [sys.executable, "-m", "blastdet", "serve", "users", "add", name, *where]
        subprocess.run(command, input=password + "\n", text=True, check=True, capture_output=True, cwd=REPO)
    service = Served(data, list(options))
    try:
        yield service
    finally:
        service.stop()


def _pairs(options: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(options))


def done(client: httpx.Client, job: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    """The job once it is over."""
    end = time.monotonic() + seconds
    while job["state"] in ("queued", "running") and time.monotonic() < end:
        time.sleep(0.1)
        job = client.get(f"/jobs/{job['id']}").raise_for_status().json()
    return job


def upload(client: httpx.Client, path: Path = SMEAR, name: str | None = None) -> dict[str, Any]:
    """A smear, uploaded as the body of a request."""
    answer = client.post("/smears", params={"name": name or path.name}, content=path.read_bytes())
    return answer.raise_for_status().json()


def analyzed(client: httpx.Client, smear: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The analysis of a smear."""
    asked = client.post(f"/smears/{smear['id']}/analyses", json={"mpp": 0.1, **options}).raise_for_status()
    job = done(client, asked.json())
    assert job["state"] == "done", job
    return client.get(f"/analyses/{job['analysis']}").raise_for_status().json()


def own_certificate(folder: Path, age_days: float = 1) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself and valid for 9 days, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "blastdet")])
    start = datetime.now(UTC) - timedelta(days=age_days)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(start).not_valid_after(start + timedelta(days=9)).add_extension(address, False)
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    return folder / "cert.pem", folder / "key.pem"
