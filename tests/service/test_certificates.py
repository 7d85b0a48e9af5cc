"""The certificate of the service, the line that says where it listens, and names of saved files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st
from serving import REPO, Served, own_certificate, served

from blastdet.cli import cli
from blastdet.core.atomic_io import locked
from blastdet.core.errors import ConfigError
from blastdet.service.http.saved_names import disposition
from blastdet.service.security.certificates import check_pair, doubts
from blastdet.service.settings import ServiceSettings
from blastdet.service.supervisor import Supervisor


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    return own_certificate(tmp_path)


def _line(certificate: Path, key: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        check_pair(certificate, key)
    line = str(raised.value)
    assert "\n" not in line and "expected" in line and "got" in line
    return line


def test_what_is_wrong_with_a_certificate_is_one_line(pair, tmp_path):
    certificate, key = pair
    check_pair(certificate, key)
    check_pair(None, None)
    assert _line(key, certificate).endswith("got a key. Are --tls-certificate and --tls-key swapped?")
    assert "missing.pem (--tls-certificate): expected a certificate in PEM, got no such file" in _line(
        tmp_path / "missing.pem", key
    )
    assert "missing.pem (--tls-key): " in _line(certificate, tmp_path / "missing.pem")
    assert "got a certificate" in _line(certificate, certificate)
    assert "(--tls-certificate): expected a certificate in PEM, got Is a directory" in _line(tmp_path, key)
    (tmp_path / "other").mkdir()
    _, other = own_certificate(tmp_path / "other")
    assert "got that of another certificate" in _line(certificate, other)
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    other.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(*private, serialization.NoEncryption()))
    assert "got that of another certificate" in _line(certificate, other)
    certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "got what OpenSSL cannot read" in _line(certificate, key)


def test_nobody_is_asked_for_the_passphrase_of_a_key(pair):
    """In a process with a terminal: OpenSSL would ask there, whatever standard input is."""
    certificate, key = pair
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    key.write_bytes(loaded.private_bytes(*private, serialization.BestAvailableEncryption(b"secret")))
    assert "expected a key without a passphrase, got one with. " in _line(certificate, key)


@pytest.mark.parametrize(
    ("age_days", "words"), [(1, []), (20, ["certificate has expired"]), (-1, ["certificate is not yet valid"])]
)
def test_a_certificate_that_clients_refuse_is_doubted(tmp_path, age_days, words):
    certificate, key = own_certificate(tmp_path, age_days)
    key.chmod(0o640)
    lines = doubts(certificate, key)
    assert [re.findall("they say: (.*)[.] Get another one", line) for line in lines] == [[one] for one in words]
    key.chmod(0o644)
    assert f"{key} (--tls-key): " in doubts(certificate, key)[-1] and "got mode 644" in doubts(certificate, key)[-1]


def _half_open(port: int) -> socket.socket:
    """A connection that begins a handshake and says no more."""
    one = socket.create_connection(("127.0.0.1", port), timeout=120)
    one.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    return one


def _is_ended(one: socket.socket) -> bool:
    """Whether the service ends a connection; waits for it."""
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def test_handshakes_that_nobody_ends_are_few_and_end(tmp_path):
    certificate, key = own_certificate(tmp_path)
    tls = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--silence-seconds", "10")
    with served(tmp_path / "service", *tls) as service:
        (event,) = [one for one in service.events() if one["event"] == "certificate.doubtful"]
        assert "(--tls-key): " in event["warning"]
        port = int(service.url.rpartition(":")[2])
        with ExitStack() as stack, service.client(verify=False) as early:
            early.get("/smears").raise_for_status()
            many = [stack.enter_context(_half_open(port)) for _ in range(300)]
            assert all(map(_is_ended, many[256:]))
            early.get("/smears").raise_for_status()
            assert all(map(_is_ended, many))
        trusting = ssl.create_default_context(cafile=str(certificate))
        with ExitStack() as stack, service.client(verify=False) as late:
            for _ in range(100):  # these are connections, and handshakes no more
                one = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                stack.enter_context(trusting.wrap_socket(one, server_hostname="127.0.0.1"))
            many = [stack.enter_context(_half_open(port)) for _ in range(250)]
            late.get("/smears").raise_for_status()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_line_of_the_manual_makes_a_certificate(tmp_path):
    (line,) = re.findall(r"^\$ (openssl .*)$", (REPO / "docs/how-to/ward.md").read_text("utf-8"), re.MULTILINE)
    subprocess.run(shlex.split(line), cwd=tmp_path, check=True, capture_output=True)
    check_pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    made = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["smears.example.org"]


def test_a_service_with_a_wrong_certificate_does_not_start(pair, tmp_path):
    certificate, key = pair
    swapped = ["--tls-certificate", str(key), "--tls-key", str(certificate)]
    run = CliRunner().invoke(cli, ["serve", "--port", "0", "--data", str(tmp_path / "data"), *swapped])
    assert run.exit_code == 2, run.output
    assert "swapped?" in run.stderr and len(run.stderr.strip().splitlines()) == 1
    assert "blastdet serves" not in run.output
    assert not (tmp_path / "data").exists()


def test_a_certificate_that_goes_bad_while_a_service_runs_is_one_line_of_its_log(pair, tmp_path):
    """The process that answers starts again, and says why it cannot, until the certificate is right."""
    certificate, key = pair
    good, options = certificate.read_bytes(), ("--tls-certificate", str(certificate), "--tls-key", str(key))
    with served(tmp_path / "tls", *options) as running:
        (web,) = running.children("web")
        certificate.write_bytes(key.read_bytes())
        os.kill(web, signal.SIGKILL)
        end = time.monotonic() + 120
        while time.monotonic() < end and not _refusals(running):
            time.sleep(0.2)
        certificate.write_bytes(good)
        running.wait_until_ready()
        said = _refusals(running)
        assert said and {one["kind"] for one in said} == {"web"}
        assert said[0]["error"].endswith("got a key. Are --tls-certificate and --tls-key swapped?")
        assert all(line.startswith("{") for line in running.log.read_text().splitlines())  # no traceback
        assert not [one for one in running.events() if "where" in one]


def _refusals(running: Served) -> list[dict]:
    return [one for one in running.events() if one["event"] == "process.cannot_start"]


def test_a_folder_in_use_is_of_another_service(tmp_path):
    with locked(tmp_path):
        run = CliRunner().invoke(cli, ["serve", "--port", "0", "--data", str(tmp_path)])
    assert run.exit_code == 2
    assert "expected a folder that no service uses, got that of one which runs" in run.stderr
    assert "--out" not in run.stderr and "--data" in run.stderr


@pytest.mark.parametrize(
    ("settings", "addresses"),
    [
        (
            {"host": "0.0.0.0", "allowed_hosts": ("films.example.org", "b")},
            "http://films.example.org:{0} and http://b:{0}",
        ),
        ({"host": "0.0.0.0"}, "http://{1}:{0}"),
        ({}, "http://127.0.0.1:{0}"),
        ({"allowed_hosts": ("films.example.org",)}, "http://127.0.0.1:{0}"),
        ({"host": "0.0.0.0", "trusted_proxies": ("10.0.0.5/32",)}, "http://{1}:{0}"),
    ],
)
def test_the_line_names_an_address_that_people_can_open(settings, addresses):
    said: list[str] = []
    supervisor = Supervisor(ServiceSettings(**settings), said.append)
    with socket.create_server((supervisor.settings.host, 0)) as listener:
        supervisor._say_where(listener, "users")
        port = listener.getsockname()[1]
    assert said[0].startswith(f"blastdet serves {addresses.format(port, socket.gethostname())} (")
    is_open = supervisor.settings.host == "0.0.0.0"
    assert ("(on all addresses; " in said[0]) == is_open
    unencrypted = [line for line in said[1:] if line.startswith("Passwords and images travel unencrypted. Pass --tls")]
    assert len(unencrypted) == (is_open and not supervisor.settings.trusted_proxies)


# Names of saved files


@given(st.text(max_size=200), st.sampled_from(["", ".report.pdf"]))
def test_any_name_is_a_header_and_a_file(name, suffix):
    said = disposition(name, suffix)
    found = re.fullmatch(r"""attachment; filename="([A-Za-z0-9._ -]+)"; filename\*=UTF-8''([A-Za-z0-9._~%-]+)""", said)
    assert found, said
    real = unquote(found[2], errors="strict")
    assert real.endswith(suffix) and len(real.encode()) <= 200 and not real.startswith(".")
    assert not re.search(r'[\x00-\x1f\x7f"/\\\u200e\u200f\u202a-\u202e\u2066-\u2069]', real)


@pytest.mark.parametrize(
    ("name", "plain", "real"),
    [
        ("Ausstrich Jäger ß", "Ausstrich Jager _", "Ausstrich Jäger ß"),
        ("血液", "__", "血液"),
        ("דם", "__", "דם"),
        ('a";\r\nSet-Cookie: x=1', "a_;__Set-Cookie_ x=1", "a_;__Set-Cookie_ x=1"),
        ("../../etc/passwd", "_.._etc_passwd", "_.._etc_passwd"),
        ("scan\u202egpj.exe", "scan_gpj.exe", "scan_gpj.exe"),
        ("  ...", "smear", "smear"),
    ],
)
def test_names_of_saved_files(name, plain, real):
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", plain)
    said = disposition(name)
    assert f'filename="{plain}"' in said
    assert unquote(said.partition("UTF-8''")[2]) == real
