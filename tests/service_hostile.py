"""Hostile requests against a running service (``make fuzz-service``).

Half are made by schemathesis from the OpenAPI document, right and wrong ones; the rest are damaged images, paths and
headers as attackers send them. Allowed is any answer below 500 that names no path and no package of the service, and
503 with ``Retry-After``. Afterwards the service must have no more files than its rows name, and about the memory of
before.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import socket
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from serving import REPO, SMALL, Served, analyzed, served, upload

OPTIONS = ("--requests-per-minute", "0", "--max-upload-mb", "8")
SECRET_NAME = "Erika Mustermann"
"""Part of the name of a smear; it may stand in answers to its owner, and nowhere in the log."""

_INSIDE = ("Traceback", "site-packages", "sqlalchemy", "SELECT ", "/proc/", str(REPO))
_UNKNOWN = "0" * 32

PATHS = (
    "/smears/../../etc/passwd", "/smears/..%2f..%2fetc%2fpasswd", "/smears/%2e%2e/%2e%2e", "/smears/%00", "/%ff%fe",
    "/smears/" + "a" * 8000, "//etc/passwd", "/smears/{id}/image/../../../../etc/passwd", "/smears/{id}%00/image",
    "/smears/{id}/tiles/-1/-1/-1", "/smears/{id}/tiles/0/0/" + "9" * 5000, "/smears/{id}/tiles/1e3/0/0",
    "/analyses/{analysis}/cells/" + "9" * 4999 + ".jpg", "/analyses/{analysis}/cells/-1.jpg", "/smears?after=x%00",
    "/smears/{id}/shares/%F0%9F%92%A9", "/smears/{id}/shares/..%2f", "/corrections?since=%27%20OR%201=1--",
    "/smears?name=%27;DROP%20TABLE%20smears;--", "/smears?name=%25%25%25", "/audit?before=9&limit=1000",
    "/detect?mpp=nan",
    "/detect?mpp=1e308,1e308", "/detect?min_score=1e400", "/smears?limit=" + "9" * 5000, "/../../../../etc/shadow",
)  # fmt: skip

HEADERS: tuple[tuple[str, str], ...] = (
    ("origin", "http://["), ("origin", "null"), ("origin", "http://evil.example"), ("origin", "\xff"), ("host", ""),
    ("host", "["), ("host", "evil.example"), ("host", "127.0.0.1:99999999"), ("cookie", "blastdet_session=\xff\xfe"),
    ("cookie", "=;=;==" * 500), ("authorization", "Bearer "), ("authorization", "Bearer \xe9\xff"),
    ("authorization", "Bearer " + "a" * 8000), ("content-type", "multipart/form-data; boundary=\xff"),
    ("content-type", "multipart/form-data; boundary=" + "a" * 5000),
    ("content-type", "application/json; charset=utf-7"),
    ("content-length", "-1"), ("content-length", "99999999999999999999"), ("transfer-encoding", "chunked, chunked"),
    ("range", "bytes=0-0," * 2000), ("range", "bytes=99999999999999999999-"), ("range", "bytes=-0"),
    ("range", "lines=a"),
    ("if-match", '"99999999999999999999"'), ("upload-offset", "\xb2"),
    ("upload-length", "-0"),
    ("upload-metadata", "filename " + base64.b64encode(b"../../\x00\xff").decode()), ("x-forwarded-proto", "\xff"),
    ("content-disposition", "attachment; filename*=UTF-8''%ff%00..%2f"), ("x-remote-user", "root"),
    ("if-none-match", "*"), ("if-modified-since", "99999"), ("if-range", "\xff"), ("expect", "100-continue"),
)  # fmt: skip


@dataclass
class Hostile:
    """Sends requests and keeps what is wrong with the answers.

    Parameters
    ----------
    service : Served
    random : random.Random
    """

    service: Served
    random: random.Random
    faults: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    ids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = self.service.client()
        self.session = requests.Session()  # schemathesis takes no other kind
        smear = upload(self.client, SMALL, f"{SECRET_NAME}.jpg")
        analysis = analyzed(self.client, smear)
        (job,) = self.client.get("/jobs").json()["items"]
        begun = {"Upload-Length": "9", "Tus-Resumable": "1.0.0"}
        part = self.client.post("/uploads", headers=begun).headers["location"].rpartition("/")[2]
        self.ids = {"smear_id": smear["id"], "analysis_id": analysis["id"], "job_id": job["id"], "upload_id": part}

    def close(self) -> None:
        """Close all connections."""
        self.client.close()
        self.session.close()

    def look(self, what: str, status: int, content: bytes, retry: bool = False) -> None:
        """Judge an answer."""
        self.statuses[status] += 1
        if status >= 500 and not (status == 503 and retry):
            self.faults.append(f"{what}: {status} {content[:300]!r}")
        if status >= 400:
            inside = [one for one in (*_INSIDE, str(self.service.data), SECRET_NAME) if one.encode() in content]
            if inside:
                self.faults.append(f"{what}: shows {inside}: {content[:300]!r}")
            if len(content) > 2500:
                self.faults.append(f"{what}: an error of {len(content)} bytes")

    def described(self, each: int) -> None:
        """So many requests for each operation of the OpenAPI document, right and wrong in turns."""
        import schemathesis
        from hypothesis import HealthCheck, Phase, given, seed, settings
        from hypothesis.errors import Unsatisfiable
        from schemathesis import GenerationMode

        schema = schemathesis.openapi.from_dict(self.client.get("/openapi.json").json())
        schema.config.update(base_url=self.service.url)
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @seed(self.random.getrandbits(32))
                @settings(
                    max_examples=max(1, each // 2),
                    database=None,
                    deadline=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def send(case: Any) -> None:
                    self._send(case)

                with suppress(Unsatisfiable):  # nothing can be wrong about this operation
                    send()

    def _send(self, case: Any) -> None:
        """One request of schemathesis; most with ids that exist, so that it comes past the first look."""
        keeps = (case.method.upper(), case.path) != ("DELETE", "/api/v1/smears/{smear_id}")
        for name in set(case.path_parameters or {}) & set(self.ids):
            if keeps and self.random.random() < 0.7:
                case.path_parameters[name] = self.ids[name]
        if case.method.upper() == "DELETE" and "/uploads/" in case.path:
            case.path_parameters["upload_id"] = _UNKNOWN
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = case.call(session=self.session, timeout=120)
        retry = "retry-after" in {name.lower() for name in answer.headers}
        self.look(f"{case.method} {case.path}", answer.status_code, answer.content or b"", retry)

    def images(self, n: int) -> None:
        """Damaged images as uploads and for /detect."""
        for _ in range(n):
            content = self._damaged(SMALL.read_bytes())
            for path in ("/detect?mpp=0.1", "/smears"):
                answer = self.client.post(path, content=content)
                self.look(f"damaged image to {path}", answer.status_code, answer.content)
                if path == "/smears" and answer.is_success and answer.json()["id"] != self.ids["smear_id"]:
                    self._pictures(answer.json()["id"])
                    self.client.delete(f"/smears/{answer.json()['id']}")

    def _pictures(self, smear: str) -> None:
        """The pixels of an image whose head could be read."""
        for path in ("picture.jpg", "tiles/0/0/0"):
            answer = self.client.get(f"/smears/{smear}/{path}")
            self.look(f"damaged image as {path}", answer.status_code, answer.content)

    def _damaged(self, content: bytes) -> bytes:
        damaged = bytearray(content)
        for _ in range(self.random.randint(1, 40)):
            # most harm is done in the head, where sizes and tables are
            most = len(damaged) if self.random.random() < 0.3 else min(800, len(damaged))
            damaged[self.random.randrange(most)] = self.random.randrange(256)
        if self.random.random() < 0.3:
            del damaged[self.random.randrange(2, len(damaged)) :]
        return bytes(damaged)

    def raw(self, n: int) -> None:
        """Paths and headers that no library would send, written to the socket."""
        for _ in range(n):
            path, headers = "/api/v1/smears/{id}/image", {"host": self.service.url.rpartition("/")[2]}
            method = self.random.choice(["GET", "GET", "POST", "PATCH", "HEAD", "TRACE", "G\xffT", "OPTIONS"])
            if self.random.random() < 0.5:
                path = self.random.choice(("", "/api/v1")) + self.random.choice(PATHS)
            for name, value in self.random.sample(HEADERS, self.random.randint(0, 3)):
                headers[name] = value
            path = path.replace("{id}", self.ids["smear_id"]).replace("{analysis}", self.ids["analysis_id"])
            body = self.random.choice([b"", b"{", b"[" * 5000, b'{"name": "\\ud800"}', b"\xff" * 100, b"null"])
            self._raw(method, path, headers, body)

    def _raw(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        is_odd = bool({"content-length", "transfer-encoding", "expect"} & set(headers))
        headers.setdefault("content-length", str(len(body)))
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
            "connection: close",
        ]
        host, _, port = self.service.url.rpartition("/")[2].partition(":")
        content = b""
        with socket.create_connection((host, int(port)), timeout=60) as line:
            try:
                line.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
                if is_odd:  # else the service takes the end for a client that does not want its answer
                    line.shutdown(socket.SHUT_WR)
                while piece := line.recv(2**16):
                    content += piece
            except ConnectionError:
                pass
        first = content.split(b"\r\n", 1)[0].split()
        status = int(first[1]) if len(first) > 1 and first[1].isdigit() else 0
        _, _, shown = content.partition(b"\r\n\r\n")
        self.look(f"{method!r} {path[:80]} {headers!r:.200}", status, shown, b"retry-after" in content[:2000].lower())

    def values(self, n: int) -> None:
        """JSON bodies with hostile values in every place."""
        from fuzz import HOSTILE

        line = {"op": "class", "box_xyxy": [5, 5, 60, 60], "new_class": "wbc"}
        smear, analysis = self.ids["smear_id"], self.ids["analysis_id"]
        bodies: list[tuple[str, str, Any]] = [
            ("PATCH", f"/smears/{smear}", {"name": "a", "status": "new"}),
            ("POST", f"/smears/{smear}/analyses", {"mpp": [0.1, 0.1], "region": [0, 0, 9, 9], "weights": "none"}),
            ("POST", f"/analyses/{analysis}/corrections", {"corrections": [line]}),
            ("POST", "/tokens", {"name": "a", "scope": "read", "days": 1}),
            ("POST", "/session", {"name": "a", "password": "b"}),
            ("PUT", f"/smears/{smear}/shares/nobody", {"may": "read"}),
        ]
        for _ in range(n):
            method, path, body = self.random.choice(bodies)
            spoilt = _spoilt(body, self.random.choice(HOSTILE), self.random)
            content = json.dumps(spoilt).encode()
            kind = {"content-type": "application/json"}
            answer = self.client.request(method, path, content=content, headers=kind)
            self.look(f"{method} {path} {content[:200]!r}", answer.status_code, answer.content)

    def files(self) -> int:
        """Files below the folder of the service, without the logs of the database."""
        return sum(path.is_file() and "-" not in path.name for path in self.service.data.rglob("*"))

    def memory(self) -> float:
        """Megabytes of the web process."""
        (pid,) = self.service.children("web")
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20

    def left_over(self) -> list[str]:
        """Temporary files and folders without a row."""
        data = self.service.data
        left = [f"{path.name}: left in {name}" for name in ("temporary", "trash") for path in (data / name).iterdir()]
        log = self.service.log.read_text()
        if SECRET_NAME in log:
            left.append("the log names a smear")
        if "Traceback" in log:  # also of a child, whose faults are answered with 422
            left.append(f"a fault: {log[log.index('Traceback') :][:2000]}")
        return left


def _spoilt(value: Any, hostile: Any, chance: random.Random) -> Any:
    """A copy of a JSON document with one value replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice([*value, "extra"])
        return {**value, key: _spoilt(value.get(key), hostile, chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        i = chance.randrange(len(value))
        return [*value[:i], _spoilt(value[i], hostile, chance), *value[i + 1 :]]
    return hostile


PARTS: dict[str, Callable[[Hostile, int], None]] = {
    "described": lambda one, n: one.described(max(2, n // 45)),
    "values": Hostile.values,
    "images": lambda one, n: one.images(n // 2),
    "raw": Hostile.raw,
}


def main() -> None:
    """Send, look, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), *OPTIONS) as service:
        one = Hostile(service, random.Random(asked.seed))
        memory = files = 0.0
        for round_ in range(4):
            for part in PARTS.values():
                part(one, asked.requests // 16)
            if round_ == 0:
                memory, files = one.memory(), one.files()
        statuses = dict(sorted(one.statuses.items()))
        print(f"seed {asked.seed}: {sum(statuses.values())} requests, {statuses}")
        print(f"web process: {memory:.0f} MB after a quarter, {one.memory():.0f} MB at the end")
        print(f"files: {files:.0f} after a quarter, {one.files()} at the end")
        faults = [*one.faults, *one.left_over()]
        one.close()
    if faults:
        raise SystemExit("\n".join(faults[:50]))


if __name__ == "__main__":
    main()
