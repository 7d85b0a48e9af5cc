"""`blastdet.Client` and ``blastdet detect --server`` against a real service."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import socket
import ssl
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from serving import SMALL, SMEAR, own_certificate, served

import blastdet
from blastdet.cli import cli
from blastdet.core.errors import ConfigError, ServiceError
from blastdet.datasets.corrections import read_corrections


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def client(service):
    one = blastdet.Client(service.url)
    yield one
    one.close()


def test_whoever_refuses_an_upload_before_its_end_is_heard(tmp_path):
    body = b'{"error": "upload: expected at most 3 MB more"}'
    answer = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    large = tmp_path / "large"
    with large.open("wb") as stream:
        stream.truncate(200 * 2**20)

    def refuse() -> None:
        with listening.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as threads:
        threads.submit(refuse)
        client = blastdet.Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(ServiceError, match="at most 3 MB more"):
            client.upload(large)
        assert client._connection is None


def test_the_whole_way_in_ten_lines(client, tmp_path):
    smear = client.upload(SMEAR)
    assert client.upload(SMEAR) == smear
    steps = []
    analysis = client.analyze(smear, lambda done, total: steps.append((done, total)), mpp=0.1)
    assert client.analyze(smear, mpp=0.1) == analysis
    result = client.result(analysis)
    cell = next(one for one in result["cells"] if one["label"] == "wbc")
    line = {"op": "class", "box_xyxy": cell["box_xyxy"], "old_class": "wbc", "new_class": "blast"}
    assert client.correct(analysis, [line], version=0) == 1
    assert client.correct(analysis, [line], version=0) == 1  # sent again: stored once
    with pytest.raises(ServiceError, match="somebody else was first"):
        client.correct(analysis, [{**line, "new_class": "wbc"}], version=0)
    assert client.result(analysis)["counts"]["blast"] == result["counts"]["blast"] + 1
    assert client.corrections(tmp_path / "corrections.jsonl") == 1
    assert read_corrections(tmp_path / "corrections.jsonl")[0].new_class == "blast"
    assert client.file(analysis, "overlay.jpg")[:3] == b"\xff\xd8\xff"
    assert [one["id"] for one in client.smears(name="SMEAR")] == [smear]
    client.delete(smear)
    assert list(client.smears()) == []
    with pytest.raises(ServiceError, match="analysis: not found"):
        client.result(analysis)


def test_detect_is_the_library_at_a_distance(client):
    expected = blastdet.load("default", device="cpu")(SMALL, mpp=(0.1, 0.1)).to_dict()
    found = client.detect(SMALL, mpp=(0.1, 0.1))
    assert (found["cells"], found["file"]) == (expected["cells"], SMALL.name)
    assert client.detect(SMALL.read_bytes(), mpp=0.1)["cells"] == expected["cells"]
    with pytest.raises(ServiceError, match=r"0\.8 µm/px"):
        client.detect(SMALL, mpp=50)


def test_what_is_no_service_is_one_line(tmp_path):
    for url in ("127.0.0.1:8000", "ftp://x", ""):
        with pytest.raises(ConfigError, match="server: expected http://"):
            blastdet.Client(url)
    with pytest.raises(ServiceError, match="does not answer"), blastdet.Client("http://127.0.0.1:9") as client:
        client.detect(b"x")


def test_tls_with_a_certificate_of_ones_own(tmp_path, monkeypatch):
    certificate, key = own_certificate(tmp_path)
    options = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    with served(tmp_path / "tls", *options, users={"anna": "correct horse"}) as running:
        assert running.url.startswith("https://")
        answer = httpx.post(
            f"{running.url}/api/v1/session",
            json={"name": "anna", "password": "correct horse"},
            verify=ssl.create_default_context(cafile=str(certificate)),
        )
        assert "secure" in answer.headers["set-cookie"].lower()
        assert "strict-transport-security" in answer.headers
        for client, said in (
            (blastdet.Client(running.url, "wrong", certificate=certificate), "token: unknown or expired"),
            (
                blastdet.Client(running.url),
                r"its certificate is not trusted \(self-signed.*certificate=.*SSL_CERT_FILE",
            ),
        ):
            with client, pytest.raises(ServiceError, match=said):
                client.detect(SMALL)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with blastdet.Client(running.url, "wrong") as client, pytest.raises(ServiceError, match="unknown or expired"):
            client.detect(SMALL)


def test_detect_server_writes_the_files_of_detect(service, tmp_path):
    """Also the page and the tables of the run, made here; a broken image is named in them and stops nothing."""
    fields = tmp_path / "fields"
    fields.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(SMALL if name == "a.jpg" else SMEAR, fields / name)
    shutil.copy(SMALL, tmp_path / "=other.jpg")
    with blastdet.Client(service.url) as other:
        other.upload(tmp_path / "=other.jpg")  # the name that the service knows these bytes by
    (fields / "summary.jpg").write_bytes(SMALL.read_bytes() + b" ")  # its table would have the name of the run's
    (fields / "broken.jpg").write_bytes(b"no image")
    runs = {"far": ["--server", service.url], "near": ["--device", "cpu"]}
    for name, options in runs.items():
        command = ["detect", str(fields), "--mpp", "0.1", "--out", str(tmp_path / name), *options]
        run = CliRunner().invoke(cli, command)
        assert run.exit_code == 1, run.output
        assert "failed: " in run.output
        if name == "far":
            assert "failed: broken.jpg: expected" in run.stderr
            assert f"open {tmp_path / 'far/index.html'} in a browser" in run.output
    far, near = ({str(p.relative_to(tmp_path / one)) for p in (tmp_path / one).rglob("*.*")} for one in runs)
    assert near - far == {"run.jsonl", ".lock"} and far < near
    for name in ("summary.csv", "cells.csv", "b.jpg.csv"):
        assert (tmp_path / "far" / name).read_text("utf-8") == (tmp_path / "near" / name).read_text("utf-8")
    cells = [json.loads((tmp_path / one / "a.jpg.json").read_text())["cells"] for one in runs]
    assert cells[0] == cells[1]
    assert _workbook(tmp_path / "far") == _workbook(tmp_path / "near")
    pages = [_page(tmp_path / one) for one in runs]
    assert pages[0] == pages[1]
    assert [one["name"] for one in pages[0]["images"]] == ["a.jpg", "b.jpg", "summary.jpg"]
    assert any(line.startswith("failed: broken.jpg: expected") for line in pages[0]["remarks"])


def test_a_scale_that_red_cells_contradict_is_printed_as_without_a_server(service, tmp_path):
    notes, printed = {}, {}
    for name, options in {"far": ["--server", service.url], "near": ["--device", "cpu"]}.items():
        words = ["detect", str(SMEAR), "--mpp", "0.07", "--format", "json", "--out", str(tmp_path / name), *options]
        run = CliRunner().invoke(cli, words)
        assert run.exit_code == 0, run.output
        printed[name] = [line.replace("/near", "/far") for line in run.output.splitlines()]
        notes[name] = [line for line in run.output.splitlines() if line.startswith("note: ")]
    assert notes["far"] == notes["near"]
    assert printed["far"][2:] == printed["near"][2:]  # but for the seconds of the image
    assert any(line.startswith("non-blast white cells") for line in printed["far"]), printed["far"]
    assert any(line.startswith("note: red cells suggest 0.1") for line in notes["far"]), notes
    words = ["detect", str(SMEAR), "--mpp", "0.07", "--format", "json", "--server", service.url, "--quiet"]
    assert CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "quiet")]).output == ""


def _page(folder: Path) -> dict:
    """What the page of a run holds; its pictures must be there."""
    found = re.search(r"^const DATA = (.*?);?$", (folder / "index.html").read_text("utf-8"), re.MULTILINE)
    data = json.loads(found[1])
    for image in data["images"]:
        assert all((folder / image[name]).read_bytes()[:3] == b"\xff\xd8\xff" for name in ("file", "sheet"))
    data["remarks"] = [re.sub("(failed: ).*(broken.jpg)", r"\1\2", line) for line in data["remarks"]]  # where it lies
    return data


def _workbook(folder: Path) -> dict[str, str]:
    with zipfile.ZipFile(folder / "summary.xlsx") as book:
        return {name: book.read(name).decode() for name in book.namelist() if "sheet" in name}


def test_files_of_a_corrected_smear_agree(client, service, tmp_path):
    """A cell that a person took away is gone from the page and from its sheet of crops."""
    analysis = client.analyze(client.upload(SMALL), mpp=0.1)
    (cell,) = [one for one in client.result(analysis)["cells"] if one["label"] in ("wbc", "blast")]
    client.correct(analysis, [{"op": "delete", "box_xyxy": cell["box_xyxy"]}])
    command = [
        "detect",
        str(SMALL),
        "--server",
        service.url,
        "--mpp",
        "0.1",
        "--out",
        str(tmp_path),
        "--format",
        "html",
    ]
    run = CliRunner().invoke(cli, command)
    assert run.exit_code == 0, run.output
    assert not (tmp_path / "page/cells").exists()
    assert len(client.file(analysis, "result.json", corrected=False)) > len(client.file(analysis, "result.json"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume"], "expected no --resume"),
        (["--server", "nonsense"], "server: expected http://"),
    ],
)
def test_what_a_service_cannot_do_is_refused(service, tmp_path, options, words):
    command = ["detect", str(SMALL), "--server", service.url, "--out", str(tmp_path / "out"), *options]
    run = CliRunner().invoke(cli, command)
    assert (run.exit_code, words in run.output) == (2, True), run.output


def test_an_older_service_is_named_before_a_file_is_written(service, tmp_path, monkeypatch):
    file = blastdet.Client.file
    monkeypatch.setattr(blastdet.Client, "file", lambda self, one, name: file(self, one, name.replace("run", "none")))
    words = ["detect", str(SMALL), "--server", service.url, "--mpp", "0.1", "--format", "json"]
    run = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "out")])
    assert run.exit_code == 2
    assert "expected a service of this version of blastdet (it has no run.json)" in run.output
    assert not list(tmp_path.rglob("*.json"))


def test_a_file_that_is_no_image_fails_alone(service, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    (tmp_path / "b.jpg").write_bytes(SMALL.read_bytes())
    words = ["detect", str(tmp_path), "--server", service.url, "--mpp", "0.1", "--format", "json"]
    run = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "out")])
    assert run.exit_code == 1
    assert "failed: " in run.output
    assert "a.jpg" in run.output
    assert (tmp_path / "out/b.json").is_file()


def test_corrections_of_people_are_what_a_model_is_evaluated_on(client, tmp_path):
    """Each white cell is confirmed but one, which is deleted: this is the model's only error."""
    smear = client.upload(SMEAR)
    analysis = client.analyze(smear, mpp=0.1, min_score=0.6)
    result = client.result(analysis)
    white = [one for one in result["cells"] if one["label"] not in ("rbc", "platelet")]
    lines = [{"op": "ok", "box_xyxy": one["box_xyxy"], "old_class": one["label"]} for one in white]
    lines[0] = {**lines[0], "op": "delete"}
    done = [{"op": "annotate", "old_class": name} for name in ("wbc", "blast")]
    client.correct(analysis, lines + done)
    path, films = tmp_path / "corrections.jsonl", tmp_path / "films"
    assert client.corrections(path) >= len(lines) + 1
    films.mkdir()
    shutil.copy(SMEAR, films / "another-name.jpg")
    words = ["evaluate", "--data", films, "--from", "images", "--mpp", "0.1", "--corrections", path]
    done = CliRunner().invoke(cli, [str(one) for one in (*words, "--split", "all", "--out", tmp_path / "report")])
    assert done.exit_code == 0, done.output
    own = f"{len(white) - 1} of {len(white) - 1} boxes are the model's own, confirmed by people"
    assert f"note: {own}: how well boxes fit is not measured" in done.output
    assert own in html.unescape((tmp_path / "report" / "report.html").read_text("utf-8"))
    with (tmp_path / "report" / "confusion.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["how"].startswith("class-aware") and row["cells"] != "0"]
    wrong = [(row["truth"], row["predicted"], row["cells"]) for row in rows if row["truth"] != row["predicted"]]
    assert wrong == [("false", white[0]["label"], "1")]
    assert sum(int(row["cells"]) for row in rows) == len(white)
