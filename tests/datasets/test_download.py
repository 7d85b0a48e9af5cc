"""Downloads and local copies: hostile servers, hostile archives; no partial dataset is left behind."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lookalike
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blastdet.cli.data_commands.data import _progress, command
from blastdet.core.errors import ConfigError
from blastdet.datasets import archives, catalog
from blastdet.datasets.archives import FetchError, Member, open_source, without_common_folder
from blastdet.datasets.download import Patience, download, fetch

QUICK = Patience(timeout_s=30, attempts=3, pause_s=0.01)
IMPATIENT = Patience(timeout_s=2, attempts=3, pause_s=0.01)  # only for a server that stops responding
BODY = bytes(range(256)) * 1200  # 300 kB: several chunks
ETAG = '"v1"'

Handler = BaseHTTPRequestHandler
Behaviour = Callable[[Handler], None]


class Server:
    """An HTTP server with one behaviour per request; the last one serves all further requests."""

    def __init__(self) -> None:
        self.behaviours: list[Behaviour] = []
        self.ranges: list[str | None] = []
        self.over = threading.Event()
        outer = self

        class _Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.close_connection = True
                outer.ranges.append(self.headers.get("Range"))
                n = min(len(outer.ranges), len(outer.behaviours)) - 1
                outer.behaviours[n](self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/set.zip"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.stop()


def send(handler: Handler, body: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> None:
    """Answer with `body`, announcing `length` bytes (-1: no length at all)."""
    handler.send_response(status)
    if length != -1:
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def honest(body: bytes = BODY, etag: str = ETAG) -> Behaviour:
    """A server that follows the standard, including range requests."""

    def answer(handler: Handler) -> None:
        asked = handler.headers.get("Range")
        if asked is None or handler.headers.get("If-Range") != etag:
            return send(handler, body, ETag=etag)
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            return send(handler, b"", status=416)
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return send(handler, body[start:], status=206, Content_Range=span, ETag=etag)

    return answer


def truncated(n: int, etag: str = ETAG) -> Behaviour:
    """Announces the full length, sends `n` bytes and closes the connection."""
    return lambda handler: send(handler, BODY[:n], length=len(BODY), ETag=etag)


# Downloads


def test_download_is_complete_and_reports_progress(server: Server, tmp_path: Path) -> None:
    server.behaviours = [honest()]
    calls: list[tuple[str, int, int | None]] = []
    download(server.url, tmp_path / "new" / "f", patience=QUICK, report=lambda *line: calls.append(line))
    assert (tmp_path / "new/f").read_bytes() == BODY
    assert calls[-1] == ("download", len(BODY), len(BODY))
    assert [done for _, done, _ in calls] == sorted({done for _, done, _ in calls})
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["f"]


def test_a_truncated_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.behaviours = [truncated(100_000), honest()]
    download(server.url, tmp_path / "f", patience=QUICK)
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-"]


def test_a_stalled_download_is_resumed(server: Server, tmp_path: Path) -> None:
    def stall(handler: Handler) -> None:
        send(handler, BODY[:70_000], length=len(BODY), ETag=ETAG)
        handler.wfile.flush()
        server.over.wait(20)

    server.behaviours = [stall, honest()]
    download(server.url, tmp_path / "f", patience=IMPATIENT)
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.ranges == [None, "bytes=70000-"]


def test_a_later_call_resumes_the_part_of_an_earlier_one(server: Server, tmp_path: Path) -> None:
    server.behaviours = [truncated(100_000), lambda handler: send(handler, b"", status=404)]
    with pytest.raises(FetchError, match="the server answered 404"):
        download(server.url, tmp_path / "f", patience=QUICK)
    assert not (tmp_path / "f").exists() and (tmp_path / "f.part").stat().st_size == 100_000
    server.behaviours = [honest()]
    download(server.url, tmp_path / "f", patience=QUICK)
    assert (tmp_path / "f").read_bytes() == BODY and server.ranges[-1] == "bytes=100000-"


def test_a_server_that_ignores_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    server.behaviours = [truncated(100_000), lambda handler: send(handler, BODY, ETag=ETAG)]
    download(server.url, tmp_path / "f", patience=QUICK)
    assert (tmp_path / "f").read_bytes() == BODY and server.ranges[1] == "bytes=100000-"


def test_parts_of_a_changed_file_are_not_combined(server: Server, tmp_path: Path) -> None:
    server.behaviours = [truncated(100_000), honest(BODY[::-1], '"v2"')]
    download(server.url, tmp_path / "f", patience=QUICK)
    assert (tmp_path / "f").read_bytes() == BODY[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_etag_nothing_is_resumed(server: Server, tmp_path: Path, etag: str) -> None:
    server.behaviours = [truncated(100_000, etag), lambda handler: send(handler, BODY)]
    download(server.url, tmp_path / "f", patience=QUICK)
    assert (tmp_path / "f").read_bytes() == BODY and server.ranges == [None, None]


def test_a_wrong_range_is_rejected(server: Server, tmp_path: Path) -> None:
    def wrong(handler: Handler) -> None:
        piece = BODY[5 : len(BODY) - 100_000 + 5]  # the requested number of bytes, from another position
        span = f"bytes 5-{len(piece) + 4}/{len(BODY)}"
        send(handler, piece, status=206, Content_Range=span, ETag=ETAG)

    server.behaviours = [truncated(100_000), wrong, honest()]
    download(server.url, tmp_path / "f", patience=QUICK)
    assert (tmp_path / "f").read_bytes() == BODY and server.ranges[-1] is None


def test_a_part_longer_than_the_file_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY + b"more")
    (tmp_path / "f.part.version").write_text(ETAG)
    server.behaviours = [honest()]
    download(server.url, tmp_path / "f", patience=QUICK)
    assert (tmp_path / "f").read_bytes() == BODY and len(server.ranges) == 2


def test_unknown_length_is_fine_if_the_transfer_ends_well(server: Server, tmp_path: Path) -> None:
    def chunked(n: int, *, end: bool) -> Behaviour:
        def answer(handler: Handler) -> None:
            send(handler, b"", length=-1, Transfer_Encoding="chunked")
            for at in range(0, n, 50_000):
                piece = BODY[at : at + 50_000]
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            handler.wfile.write(b"0\r\n\r\n" if end else b"")

        return answer

    server.behaviours = [chunked(100_000, end=False), chunked(len(BODY), end=True)]
    calls: list[int | None] = []
    download(server.url, tmp_path / "f", patience=QUICK, report=lambda stage, done, total: calls.append(total))
    assert (tmp_path / "f").read_bytes() == BODY and set(calls) == {None}


def test_too_many_failures_are_one_line(server: Server, tmp_path: Path) -> None:
    server.behaviours = [truncated(1000)]
    with pytest.raises(
        FetchError, match=r"set\.zip: expected 307200 bytes, got 1000; gave up after 3 attempts"
    ) as error:
        download(server.url, tmp_path / "f", patience=QUICK)
    assert len(server.ranges) == 4  # one that got 1000 bytes, three without progress
    assert "\n" not in str(error.value) and not (tmp_path / "f").exists()


def test_temporary_server_errors_are_retried(server: Server, tmp_path: Path) -> None:
    server.behaviours = [lambda h: send(h, b"", status=503), lambda h: h.wfile.write(b"nonsense\r\n\r\n"), honest()]
    download(server.url, tmp_path / "f", patience=QUICK)
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "set.zip", "http://127.0.0.1:port/x", "http://", "http://[::1"]
)
def test_anything_but_a_web_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchError, match=f"^{re.escape(url)}"):
        download(url, tmp_path / "f", patience=QUICK)


def test_a_refused_connection_is_one_error(server: Server, tmp_path: Path) -> None:
    url = server.url.replace(f":{server.http.server_port}", ":9")  # the discard port
    with pytest.raises(FetchError, match="the connection failed"):
        download(url, tmp_path / "f", patience=QUICK)


def test_a_folder_that_cannot_be_written_is_an_error(server: Server, tmp_path: Path) -> None:
    server.behaviours = [honest()]
    (tmp_path / "f.part").mkdir()
    with pytest.raises(FetchError, match=r"f\.part: cannot be written"):
        download(server.url, tmp_path / "f", patience=QUICK)
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="cannot be created"):
        download(server.url, tmp_path / "file" / "f", patience=QUICK)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, len(BODY) - 1), unique=True, max_size=4))
def test_any_interruptions_give_the_complete_file(server: Server, tmp_path: Path, cuts: list[int]) -> None:
    """Each attempt is cut off at a later byte. The resulting file is always the same."""

    def until(cut: int) -> Behaviour:
        def answer(handler: Handler) -> None:
            asked = handler.headers.get("Range")
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            span = {"Content_Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"} if asked else {}
            piece, rest = BODY[start:cut], len(BODY) - start
            send(handler, piece, status=206 if asked else 200, length=rest, ETag=ETAG, **span)

        return answer

    server.ranges.clear()
    server.behaviours = [until(cut) for cut in sorted(cuts)] + [honest()]
    download(server.url, tmp_path / "f", patience=QUICK)
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.ranges == [None, *(f"bytes={cut}-" for cut in sorted(cuts))]


# A small catalog

FILES = {"pictures/1.jpg": b"one", "pictures/2.jpg": b"two", "twice/2.jpg": b"two", "LICENSE": b"free"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalog: `free` has checksums and an added table, `asked` is available on request."""
    root = tmp_path / "catalog"
    text = (
        "name: {}\ntitle: t\ncontents: c\nsource: s\nlicence: l\nredistribution: r\ncitation: c\nhow: Write a letter.\n"
    )
    (root / "checksums").mkdir(parents=True)
    (root / "added/free").mkdir(parents=True)
    (root / "free.yaml").write_text(text.format("free"))
    (root / "asked.yaml").write_text(text.format("asked") + 'ask: Prof. X\nexpect: {"*.jpg": 2}\n')
    (root / "added/free/table.csv").write_bytes(b"a,b")
    listed = {**FILES, "table.csv": b"a,b"}
    lines = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in listed.items()]
    (root / "checksums/free.sha256").write_text("".join(lines))
    return root


def get(name: str, folder: Path, to: Path, source: Path | str | None) -> Path:
    entry = catalog.load(name, folder)
    return fetch(entry, to, source=None if source is None else str(source), patience=QUICK, folder=folder)


def contents(root: Path) -> dict[str, bytes]:
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def zipped(file: Path, files: dict[str, bytes], top: str = "") -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return file


def tarred(file: Path, files: dict[str, bytes], top: str = "") -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def unpacked(file: Path, files: dict[str, bytes], top: str = "") -> Path:
    for name, data in files.items():
        (file / top / name).parent.mkdir(parents=True, exist_ok=True)
        (file / top / name).write_bytes(data)
    return file


PACKERS = [zipped, tarred, unpacked]


@pytest.mark.parametrize("pack", PACKERS)
def test_files_are_identified_by_content(tmp_path: Path, folder: Path, pack: Callable[..., Path]) -> None:
    elsewhere = {"train/a/x.jpg": b"one", "y.JPG": b"two", "COPYING": b"free", "more/z.jpg": b"not wanted"}
    target = get("free", folder, tmp_path / "to", pack(tmp_path / "source", elsewhere, "repository-1234/"))
    assert target == tmp_path / "to/free"
    assert contents(target) == {**FILES, "table.csv": b"a,b"}
    assert [file.name for file in (tmp_path / "to").iterdir()] == ["free"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_a_changed_or_missing_file_leaves_nothing_behind(tmp_path: Path, folder: Path) -> None:
    source = zipped(tmp_path / "s.zip", {**FILES, "pictures/1.jpg": b"0ne"})
    with pytest.raises(FetchError, match=r"expected 5 files of free, 1 are missing or changed, first: pictures/1\.jpg"):
        get("free", folder, tmp_path / "to", source)
    assert list((tmp_path / "to").iterdir()) == []


def test_an_existing_copy_is_verified_and_not_downloaded_again(tmp_path: Path, folder: Path) -> None:
    source = zipped(tmp_path / "s.zip", FILES)
    target = get("free", folder, tmp_path, source)
    assert get("free", folder, tmp_path, None) == target
    (target / "LICENSE").write_bytes(b"changed")
    with pytest.raises(FetchError, match=r"incomplete copy \(LICENSE: differs from the published file\)\. Delete it"):
        get("free", folder, tmp_path, source)
    assert (target / "LICENSE").read_bytes() == b"changed"


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("top", ["", "ALL_IDB1/", "a/b/"])
def test_datasets_on_request_keep_their_file_names(
    tmp_path: Path, folder: Path, pack: Callable[..., Path], top: str
) -> None:
    files = {"im/1.jpg": b"1", "im/2.JPG": b"2", "xyc/1.xyc": b""}
    junk = {"im/.DS_Store": b"", "im/._1.jpg": b"", "im/Thumbs.db": b""}
    target = get("asked", folder, tmp_path / "to", pack(tmp_path / "source", {**files, **junk}, top))
    assert contents(target) == files


def test_datasets_on_request_say_who_to_contact(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(
        FetchError, match=r"^asked: available on request from Prof\. X\. Write a letter\. Then: .* --from"
    ):
        get("asked", folder, tmp_path / "to", None)
    with pytest.raises(FetchError, match=r"^free: cannot be downloaded automatically\. Write a letter\."):
        get("free", folder, tmp_path / "to", None)
    assert not (tmp_path / "to").exists()


def test_half_a_dataset_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FetchError, match=r"incomplete copy of asked: \*\.jpg: expected 2 files, got 1"):
        get("asked", folder, tmp_path / "to", zipped(tmp_path / "s.zip", {"1.jpg": b""}))
    assert list((tmp_path / "to").iterdir()) == []


def test_an_address_from_download_to_verified_copy(tmp_path: Path, folder: Path, server: Server) -> None:
    body = zipped(tmp_path / "s.zip", FILES, "top/").read_bytes()
    server.behaviours = [lambda h: send(h, body[:90], length=len(body), ETag=ETAG), honest(body)]
    assert contents(get("free", folder, tmp_path / "to", server.url)) == {**FILES, "table.csv": b"a,b"}
    assert [file.name for file in (tmp_path / "to").iterdir()] == ["free"]


def test_a_server_that_announces_too_little_gives_a_damaged_archive(
    tmp_path: Path, folder: Path, server: Server
) -> None:
    body = zipped(tmp_path / "s.zip", FILES).read_bytes()
    server.behaviours = [lambda h: send(h, body, length=len(body) - 30)]
    with pytest.raises(FetchError, match="got another or a truncated file"):
        get("free", folder, tmp_path / "to", server.url)
    assert list((tmp_path / "to").iterdir()) == []
    server.behaviours = [honest(body)]
    get("free", folder, tmp_path / "to", server.url)  # the bad download was deleted


# Hostile archives


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:/evil", "..", "a\\..\\..\\evil"])
@pytest.mark.parametrize("set_name", ["free", "asked"])
def test_names_outside_the_archive_are_refused(tmp_path: Path, folder: Path, name: str, set_name: str) -> None:
    source = zipped(tmp_path / "s.zip", {"1.jpg": b"", "2.jpg": b"", name: b"evil"})
    with pytest.raises(FetchError, match="leads outside"):
        get(set_name, folder, tmp_path / "in" / "to", source)
    assert not list(tmp_path.rglob("evil")) and not Path("/evil").exists()
    assert list((tmp_path / "in/to").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_names_outside_a_tar_archive_are_refused(tmp_path: Path, folder: Path, name: str) -> None:
    with pytest.raises(FetchError, match="leads outside"):
        get("asked", folder, tmp_path / "to", tarred(tmp_path / "s.tgz", {"1.jpg": b"", "2.jpg": b"", name: b""}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, folder: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        info = tarfile.TarInfo("im")
        info.type, info.linkname = kind, "../../outside"
        archive.addfile(info)
    with pytest.raises(FetchError, match="'im': expected a regular file, got a link or a device"):
        get("asked", folder, tmp_path / "to", tmp_path / "s.tar")


def test_links_in_a_zip_are_refused(tmp_path: Path, folder: Path) -> None:
    info = zipfile.ZipInfo("im")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr(info, "../../outside")
        archive.writestr("im/evil", "x")
    with pytest.raises(FetchError, match="'im': expected a regular file, got a link or a device"):
        get("asked", folder, tmp_path / "to", tmp_path / "s.zip")


def test_a_file_that_would_fill_the_disk_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    with pytest.raises(FetchError, match="expected at most 1000 bytes, got 1001"):
        get("asked", folder, tmp_path / "to", zipped(tmp_path / "s.zip", {"1.jpg": bytes(1001)}))


def test_an_encrypted_zip_is_refused(tmp_path: Path, folder: Path) -> None:
    data = bytearray(zipped(tmp_path / "s.zip", {"1.jpg": b"1"}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    (tmp_path / "s.zip").write_bytes(data)
    with pytest.raises(FetchError, match="is encrypted"):
        get("asked", folder, tmp_path / "to", tmp_path / "s.zip")


@pytest.mark.parametrize("pack", [zipped, tarred])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_an_error_or_complete(
    tmp_path: Path, folder: Path, pack: Callable[..., Path], data: st.DataObject
) -> None:
    """Flip or truncate anything: the result is the published files, or a one-line error and no files."""
    source = tmp_path / "source"
    raw = bytearray(pack(source, FILES).read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw = (
        raw[:at]
        if data.draw(st.booleans())
        else raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    )
    source.write_bytes(raw)
    shutil.rmtree(tmp_path / "to", ignore_errors=True)
    try:
        target = get("free", folder, tmp_path / "to", source)
    except FetchError as error:
        assert "\n" not in str(error)
        assert list((tmp_path / "to").iterdir()) == []
    else:
        assert contents(target) == {**FILES, "table.csv": b"a,b"}


@pytest.mark.parametrize("what", ["nowhere", "text.zip", "empty.zip"])
def test_anything_but_an_archive_is_refused(tmp_path: Path, folder: Path, what: str) -> None:
    (tmp_path / "text.zip").write_text("hello " * 100)
    (tmp_path / "empty.zip").write_bytes(b"")
    with pytest.raises(FetchError, match=f"{what}: (no such file|expected a folder, a zip)"):
        get("asked", folder, tmp_path / "to", tmp_path / what)


def test_a_file_that_is_also_a_folder_leaves_nothing_behind(tmp_path: Path, folder: Path) -> None:
    source = zipped(tmp_path / "s.zip", {"a": b"", "a/1.jpg": b"", "2.jpg": b""})
    with pytest.raises(FetchError, match="cannot be written"):
        get("asked", folder, tmp_path / "to", source)
    assert list((tmp_path / "to").iterdir()) == []


def test_the_common_folder_is_removed() -> None:
    def names(*given: str) -> list[str]:
        return [member.name for member in without_common_folder([Member(name, 0, bytes) for name in given])]

    assert names("a/b/1", "a/b/2") == ["1", "2"]
    assert names("a/1", "b/2") == ["a/1", "b/2"]
    assert names("a/1", "a/b/2") == ["1", "b/2"]
    assert names("./a/1", "a/2") == ["1", "2"]
    assert names("1") == ["1"] and names() == []


def test_members_are_read_while_the_source_is_open(tmp_path: Path) -> None:
    with open_source(tarred(tmp_path / "s.tgz", FILES)) as members:
        assert {member.name: member.read() for member in members} == FILES
        assert [member.size for member in members] == [len(data) for data in FILES.values()]


# The command


@pytest.fixture
def cli(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """The command with the catalog in `folder`."""
    for function in (catalog.names, catalog.load, catalog.checksums, catalog.problems, catalog.added):
        monkeypatch.setattr(function, "__defaults__", (folder,))
    monkeypatch.setitem(fetch.__kwdefaults__, "folder", folder)
    return CliRunner()


def test_command_gets_verifies_and_lists(tmp_path: Path, cli: CliRunner) -> None:
    source = zipped(tmp_path / "s.zip", FILES)
    result = cli.invoke(command, ["get", "free", "--from", str(source), "--to", str(tmp_path / "to")])
    assert result.exit_code == 0, result.output
    assert "unpack 4 of 4 files" in result.output and "licence: l; redistribution: r" in result.output
    target = tmp_path / "to/free"
    result = cli.invoke(command, ["verify", "free", str(target)])
    assert (result.exit_code, result.output) == (0, f"{target}: 5 files, all as published\n")
    (target / "LICENSE").unlink()
    result = cli.invoke(command, ["verify", "free", str(target)])
    assert (result.exit_code, result.output) == (1, "LICENSE: missing\n")
    listing = cli.invoke(command, ["list"]).output
    assert "asked           on request" in listing and "free            own copy" in listing


def test_verify_of_another_folder_lists_few_files(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["verify", "bccd", str(tmp_path)])
    lines = result.output.splitlines()
    assert result.exit_code == 1 and len(lines) == 21
    assert re.fullmatch(rf"\.\.\. and \d+ more\. Is {re.escape(str(tmp_path))} a copy of bccd\?", lines[-1])


def test_command_takes_the_data_folder_from_the_environment(tmp_path: Path, cli: CliRunner) -> None:
    source = zipped(tmp_path / "s.zip", {"1.jpg": b"", "2.jpg": b""})
    result = cli.invoke(command, ["get", "asked", "--from", str(source)], env={"BLASTDET_DATA": str(tmp_path / "d")})
    assert result.exit_code == 0 and len(contents(tmp_path / "d/asked")) == 2
    result = cli.invoke(command, ["verify", "asked", str(tmp_path / "d/asked")])
    assert result.output == f"{tmp_path / 'd/asked'}: 2 *.jpg; the catalog has no checksums for asked\n"


def test_command_leaves_errors_to_the_caller(tmp_path: Path, cli: CliRunner) -> None:
    """`blastdet` itself prints the line and exits with 2."""
    assert isinstance(cli.invoke(command, ["get", "asked", "--to", str(tmp_path / "d")]).exception, FetchError)
    assert isinstance(cli.invoke(command, ["get", "nonsense"]).exception, ConfigError)
    assert isinstance(cli.invoke(command, ["verify", "nonsense", "x"]).exception, ConfigError)


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stdout, expected in (
        (Terminal(), ["download 50.0 MB", "unpack 3 of 3 files", "━"]),
        (io.StringIO(), ["download 1.0 of 2.0 MB\n", "download 50.0 MB\n", "unpack 3 of 3 files\n"]),
    ):
        monkeypatch.setattr("sys.stdout", stdout)
        with _progress() as report:
            report("download", 1_000_000, 2_000_000)
            report("download", 1_000_001, 2_000_000)
            report("download", 50_000_000, None)
            report("unpack", 3, 3)
        assert all(text in stdout.getvalue() for text in expected)
    assert stdout.getvalue().count("\n") == 3


def test_get_and_verify_a_real_entry_without_checksums(tmp_path: Path) -> None:
    lookalike.image_file(tmp_path / "source/pro/a.jpg", (224, 224))
    lookalike.image_file(tmp_path / "source/pre/a.jpg", (224, 224))
    args = ["get", "all_fields", "--from", str(tmp_path / "source"), "--to", str(tmp_path)]
    output = CliRunner().invoke(command, args).output
    assert "note: The images were squeezed" in output and "next: blastdet convert" in output
    result = CliRunner().invoke(command, ["verify", "all_fields", str(tmp_path / "all_fields")])
    assert (result.exit_code, "neither checksums nor file counts" in result.output) == (0, True)


def test_every_subcommand_has_examples_and_exit_codes() -> None:
    for args in ([], ["list"], ["get"], ["verify"]):
        text = CliRunner().invoke(command, [*args, "--help"]).output
        assert "blastdet data" in text and "Exit codes" in text


# The real catalog


def test_a_complete_look_alike_of_allidb1_is_installed_and_read(tmp_path: Path) -> None:
    from blastdet.datasets.published import allidb1

    source = lookalike.allidb1(tmp_path / "ALL_IDB1", lookalike.allidb1_stems())
    target = fetch(catalog.load("allidb1"), tmp_path / "data", source=str(source))
    assert len(allidb1.read(target)) == 108
    (source / "im/Im001_1.jpg").unlink()
    with pytest.raises(FetchError, match="expected 108 files, got 107"):
        fetch(catalog.load("allidb1"), tmp_path / "other", source=str(source))


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["bccd", "chula_rbc12"])
def test_real_datasets_from_an_archive_as_published(tmp_path: Path, data_dir: Path, name: str) -> None:
    """The published files, without the tables that this project adds, give the complete dataset."""
    extra = set(catalog.added(name)) | {"README.md"}
    published = {path: data for path, data in contents(data_dir / name).items() if path not in extra}
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for path, data in published.items():
            archive.writestr(f"repository-commit/{path}", data)
    target = fetch(catalog.load(name), tmp_path / "to", source=str(tmp_path / "s.zip"))
    assert catalog.problems(catalog.load(name), target) == []
