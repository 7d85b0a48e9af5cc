"""`blastdet.Client`: a service of ``blastdet serve``, used from Python. Needs the standard library only."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from blastdet.core.errors import ConfigError, ServiceError, in_a_line
from blastdet.service.reaching import (
    CONNECT_S,
    Answer,
    connect,
    ended_after,
    is_late,
    is_over,
    said_if_late,
    tls_context,
    why_not,
)

_API = "/api/v1"
_WAIT_S = 4.0  # the most that a service takes
_PROGRESS_S = 0.5
_AGAIN = frozenset({502, 503, 504})
_JSON_BYTES, _FILE_BYTES = 64 * 2**20, 2**31
_AT_ONCE, _SLOWEST = 2**18, 2**16  # bytes, bytes per second
_ID = re.compile("[0-9a-f]{32}")
_WAITING = ("queued", "running")


class Client:
    """A service.

    Parameters
    ----------
    url : str
        Such as ``http://127.0.0.1:8000``.
    token : str, optional
        API token. Default: the environment variable ``BLASTDET_TOKEN``.
    certificate : str or Path, optional
        PEM file of the authority, for a service with a certificate of its own. Default: the file that the environment
        variable ``SSL_CERT_FILE`` names, else the authorities of this machine.
    timeout : float
        Seconds until an answer begins; once it has, it may take a second more for each 64 kB.
    waiting : callable, optional
        Called once, with a line for people, where the service does not answer for two seconds.

    Raises
    ------
    ConfigError
        If the URL is none, or the certificate cannot be read.

    Examples
    --------
    >>> client = Client("http://127.0.0.1:8000")  # doctest: +SKIP
    >>> client.detect("smear.jpg", mpp=0.1)["counts"]  # doctest: +SKIP
    {'blast': 0, 'wbc': 11, 'unsure': 3, 'rbc': 141, 'platelet': 20}
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        *,
        certificate: str | Path | None = None,
        timeout: float = 300.0,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"server: expected http://HOST:PORT or https://HOST, got {url!r:.100}")
        self.url, self._parts, self._timeout = url.rstrip("/"), parts, timeout
        self._token = os.environ.get("BLASTDET_TOKEN") if token is None else token
        self._tls = tls_context(certificate) if parts.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None
        self._waiting, self._has_answered = waiting, False

    def detect(self, image: str | Path | bytes, **options: Any) -> dict[str, Any]:
        """Analyze one small image at once; nothing is stored.

        Parameters
        ----------
        image : path or bytes
            Of an image file.
        **options
            ``weights``, ``mpp``, ``min_score``, as for `blastdet.detect`.

        Returns
        -------
        dict
            The JSON document of ``blastdet detect``.

        Raises
        ------
        ServiceError
            If the service refuses it, or does not answer. So do all methods.
        """
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        name = "image" if isinstance(image, bytes) else Path(image).name
        if isinstance(mpp := options.get("mpp"), (tuple, list)):
            options["mpp"] = ",".join(map(str, mpp))
        return self._json("POST", _query("/detect", options), content, _named(name))

    def upload(self, path: str | Path) -> str:
        """Upload a smear, of any size, and return its id. The same file again gives the same id."""
        with Path(path).open("rb") as stream:
            smear = self._json("POST", "/smears", stream, _named(Path(path).name))
        return self._id(smear, "id")

    def analyze(self, smear: str, progress: Callable[[int, int], None] | None = None, **options: Any) -> str:
        """Analyze an uploaded smear, wait, and return the id of the result. Equal requests give the same one.

        Parameters
        ----------
        smear : str
            Id of `upload`.
        progress : callable, optional
            Called with tiles done and tiles in all.
        **options
            ``weights``, ``mpp``, ``min_score``, ``region``.
        """
        job = self._json("POST", f"/smears/{smear}/analyses", _body(options), _JSON)
        wait = min(_WAIT_S if progress is None else _PROGRESS_S, self._timeout / 2)
        while (state := self._field(job, "state", str)) in _WAITING:
            asked = time.monotonic()
            job = self._json("GET", f"/jobs/{self._id(job, 'id')}?wait={wait:.3f}")
            if self._field(job, "state", str) in _WAITING and time.monotonic() - asked < wait / 2:
                time.sleep(wait / 2)  # it does not know how to wait
            if progress is not None:
                progress(self._field(job, "done", int), self._field(job, "total", int))
        if state != "done":
            raise ServiceError(f"{self.url}: {_short(self._field(job, 'error', str) or state)}")
        return self._id(job, "analysis")

    def result(self, analysis: str) -> dict[str, Any]:
        """The JSON document of a result, with all cells, and with corrections."""
        return self._read(self.file(analysis, "result.json"))

    def file(self, analysis: str, name: str, **query: Any) -> bytes:
        """A result as a file.

        Parameters
        ----------
        analysis : str
        name : str
            ``result.json``, ``result.csv``, ``result.coco.json``, ``result.geojson``, ``overlay.jpg``, ``report.pdf``,
            ``report.fhir.json`` or ``run.json``.
        **query
            ``corrected=False``: as the model left it, for the first four.
        """
        return self._request("GET", _query(f"/analyses/{analysis}/{quote(name)}", query))[1]

    def picture(self, smear: str) -> bytes:
        """A smear as a JPEG for a screen, at most 3200 pixels wide or high."""
        return self._request("GET", f"/smears/{smear}/picture.jpg")[1]

    def correct(self, analysis: str, corrections: Sequence[Mapping[str, Any]], version: int | None = None) -> int:
        """Append corrections (lines of ``corrections.jsonl``) and return the new version.

        With `version`, the service refuses them if somebody else was first. The same ones sent again, because the
        answer was lost, are stored once, and answered as before.
        """
        where = f"/analyses/{analysis}"
        if version is None:
            version = self._field(self._json("GET", where), "version", int)
        body = _body({"corrections": [dict(one) for one in corrections]})
        answer = self._json("POST", f"{where}/corrections", body, {**_JSON, "If-Match": f'"{version}"'})
        return int(self._field(answer, "version", int))

    def corrections(self, path: str | Path) -> int:
        """Write all corrections to a file for ``train``, ``adapt`` and ``evaluate``; returns their number."""
        content = self._request("GET", "/corrections")[1]
        Path(path).write_bytes(content)
        return content.count(b"\n")

    def smears(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """Smears in the worklist, the newest first; filters: ``status``, ``name``, ``analyzed``."""
        after = None
        while True:
            page = self._json("GET", _query("/smears", {**filters, "after": after}))
            items = self._field(page, "items", list)
            yield from items
            if (last := page.get("next")) is None:
                return
            if not items or last == after:  # it would never end
                raise self._stranger()
            after = last

    def delete(self, smear: str) -> None:
        """Delete a smear with everything that was made of it."""
        self._request("DELETE", f"/smears/{smear}")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _json(
        self, method: str, path: str, body: bytes | BinaryIO | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return self._read(self._request(method, path, body, headers, _JSON_BYTES)[1])

    def _read(self, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._stranger()
        return found

    def _field(self, answer: Mapping[str, Any], name: str, kind: type) -> Any:
        """A field of an answer, which may be that of any other program."""
        if not isinstance(value := answer.get(name), kind):
            raise self._stranger()
        return value

    def _id(self, answer: Mapping[str, Any], name: str) -> str:
        if not _ID.fullmatch(value := self._field(answer, name, str)):
            raise self._stranger()
        return str(value)

    def _stranger(self) -> ServiceError:
        return ServiceError(f"{self.url}: expected JSON of a blastdet service")

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
        most: int = _FILE_BYTES,
    ) -> tuple[int, bytes]:
        """Status and content of an answer; asks again for a while where the service is busy or starts again."""
        began = time.monotonic()
        while True:
            try:
                status, content = self._once(method, path, body, headers or {}, most)
                self._has_answered = True
                if status not in _AGAIN or is_over(began):
                    break
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if line := why_not(error, self._parts, began, is_known=self._has_answered):
                    raise ServiceError(f"{self.url}: {line}", concerns_all=True) from None
            if is_late(began):
                self._say_waiting()
            time.sleep(1.0)
        if not 200 <= status < 300:
            raise self._refused(status, _said(content, status))
        return status, content

    def _say_waiting(self) -> None:
        """Once, whatever is asked."""
        say, self._waiting = self._waiting, None
        if say is not None:
            say(f"{self.url}: does not answer yet. Waiting for it")

    def _refused(self, status: int, line: str) -> ServiceError:
        if status == 401:
            what = line if self._token else "expected a token, got none"
            line = f"{what}. Set BLASTDET_TOKEN to a token of the service"
        elif status == 403 and "the scope" in line:
            line = f"{line}. Set BLASTDET_TOKEN to a token of that scope"
        return ServiceError(f"{self.url}: {line}", status, concerns_all=status in (401, 403, *_AGAIN))

    def _once(self, method: str, path: str, body: Any, headers: Mapping[str, str], most: int) -> tuple[int, bytes]:
        connection = self._connected()
        if hasattr(body, "seek"):
            body.seek(0)
            headers = {**headers, "Content-Length": str(os.fstat(body.fileno()).st_size)}
        if self._token:
            headers = {**headers, "Authorization": f"Bearer {self._token}"}
        try:
            connection.request(method, f"{self._parts.path.rstrip('/')}{_API}{path}", body, dict(headers))
        except (ConnectionError, ssl.SSLEOFError):
            if connection.sock is None:
                raise
            try:  # whoever refuses a body before its end says why, and closes
                return self._answer(connection, most)
            finally:
                self.close()
        return self._answer(connection, most)

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            host, port, patience = self._parts.hostname or "", self._parts.port, min(self._timeout, CONNECT_S)
            self._connection = (
                http.client.HTTPConnection(host, port, timeout=patience)
                if self._tls is None
                else http.client.HTTPSConnection(host, port, timeout=patience, context=self._tls)
            )
            self._connection.response_class = Answer
        if self._connection.sock is None:
            with said_if_late(self._say_waiting):
                connect(self._connection, self._timeout)
        return self._connection

    def _answer(self, connection: http.client.HTTPConnection, most: int) -> tuple[int, bytes]:
        began = time.monotonic()
        aloud = nullcontext() if self._has_answered else said_if_late(self._say_waiting)  # of a known one it is work
        with ended_after(connection, self._timeout), aloud:
            answer = connection.getresponse()
        length, content = answer.length, bytearray()
        while (length or len(content)) <= most:
            left = _AT_ONCE if length is None else min(_AT_ONCE, length - len(content))
            part = answer.read1(left) if left else b""
            if not part:
                if left and length is not None:
                    raise http.client.IncompleteRead(bytes(content), left)
                answer.close()  # the connection stays open for the next request
                return answer.status, bytes(content)
            content += part
            if time.monotonic() - began > self._timeout + len(content) / _SLOWEST:
                raise TimeoutError("its answer is too slow")
        self.close()
        raise ServiceError(f"{self.url}: expected an answer of at most {most / 2**20:.0f} MB, got more")


_JSON = {"Content-Type": "application/json"}


def _body(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _named(name: str) -> dict[str, str]:
    disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return {"Content-Type": "application/octet-stream", "Content-Disposition": disposition}


def _query(path: str, values: Mapping[str, Any]) -> str:
    given = {name: str(value) for name, value in values.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _said(content: bytes, status: int) -> str:
    """The line of an error."""
    try:
        return _short(str(json.loads(content)["error"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"answered with status {status}"


def _short(text: str) -> str:
    """Text of a service in one line."""
    return in_a_line(" ".join(text.split()), 300)
