"""Settings of the service, its limits, and the commands beside it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from blastdet.cli import cli
from blastdet.core.errors import ConfigError
from blastdet.service.security.rate_limits import RateLimit
from blastdet.service.settings import ServiceSettings, make_settings
from blastdet.service.store import accounts, audit_log, job_rows, smears
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.database import open_database
from blastdet.service.store.schema import Job, Smear


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"port": 70000}, "--port: "),
        ({"tls_certificate": "a.pem"}, "expected both a certificate and a key"),
        ({"auth": "proxy"}, "expected the header and the network of the proxy"),
        ({"auth_header": "X-Remote-User"}, "expected the header and the network of the proxy"),
        ({"trusted_proxies": ["300.1.1.1/8"]}, "--trusted-proxies: "),
        ({"database": "mysql://x:secret@y/z"}, "--database: expected postgresql://"),
        ({"keep_days": float("nan")}, "--keep-days: "),
    ],
)
def test_wrong_settings_are_named_in_one_line(values, words):
    with pytest.raises(ConfigError) as raised:
        make_settings(**values)
    assert str(raised.value).startswith(words) or words in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_counts_as_this_machine():
    assert ServiceSettings().is_loopback
    assert ServiceSettings(host="::1").is_loopback
    assert ServiceSettings(host="127.1.2.3").is_loopback
    assert not ServiceSettings(host="0.0.0.0").is_loopback
    assert not ServiceSettings(host="::").is_loopback
    assert not ServiceSettings(allowed_hosts=("films.example.org",)).is_loopback
    assert ServiceSettings(host="0.0.0.0").host_names() is None


def test_settings_reach_the_processes_unchanged(monkeypatch):
    settings = make_settings(database="postgresql://u:p@h/n", keep_days=3, trusted_proxies=["10.0.0.0/8"])
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert ServiceSettings.from_environment() == settings
    assert settings.database_url == "postgresql+psycopg://u:p@h/n"


def test_a_limit_fills_up_again(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("blastdet.service.security.rate_limits.time.monotonic", lambda: now[0])
    limit = RateLimit(60)
    assert [limit.wait("a") for _ in range(60)] == [0.0] * 60
    assert limit.wait("a") == pytest.approx(1.0)
    now[0] = 1.0
    assert (limit.wait("a"), limit.wait("b")) == (0.0, 0.0)
    assert RateLimit(0).wait("a") == 0.0


def test_users_and_tokens_from_the_command_line(tmp_path):
    def run(*words: str, text: str = "") -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["serve", *words, "--data", str(tmp_path / "data")], input=text)
        return done.exit_code, done.output

    assert run("users", "add", "anna", "--admin", text="correct horse\n") == (0, "anna: added\n")
    code, output = run("users", "add", "anna", text="correct horse\n")
    assert (code, "expected a new name, got anna" in output) == (2, True)
    assert run("users", "add", "bot", "--no-password")[0] == 0
    assert [line.partition(",")[0] for line in run("users", "list")[1].splitlines()] == ["anna", "bot"]
    code, token = run("tokens", "add", "bot", "--scope", "detect")
    assert (code, token.startswith("blastdet_")) == (0, True)
    listed = run("tokens", "list", "bot")[1]
    assert "detect, until" in listed
    assert token.strip() not in listed
    first = listed.split()[0]
    database = open_database(f"sqlite:///{tmp_path / 'data' / 'blastdet.db'}")
    with database.begin() as session:  # as a request with the first token does
        accounts.add_token(session, accounts.named_user(session, "bot"), "second", "detect", 1, first)
    database.close()
    assert f", made with {first}\n" in run("tokens", "list", "bot")[1]
    assert run("tokens", "revoke", "bot", first) == (0, f"{first}: revoked, with 1 token made with it\n")
    assert run("tokens", "list", "bot") == (0, "no tokens\n")
    assert run("users", "password", "anna", text="another horse\n")[0] == 0
    assert run("users", "hand-over", "bot", "anna") == (0, "0 smears of bot handed over to anna\n")
    assert "expected two users, got anna twice" in run("users", "hand-over", "anna", "anna")[1]
    assert run("jobs", "list") == (0, "no jobs\n")
    assert "expected the id of a job that waits or runs, got 'x'" in run("jobs", "cancel", "x")[1]
    assert run("users", "remove", "bot")[0] == 0
    assert run("users", "remove", "bot")[0] == 2
    words = f"expected the name of a user in {tmp_path / 'data'} (--data), got 'bot'"
    assert words in run("tokens", "add", "bot")[1]


@pytest.mark.parametrize(
    "words",
    [
        ["users", "list"],
        ["users", "password", "anna"],
        ["users", "remove", "anna"],
        ["users", "hand-over", "anna", "ben"],
        ["jobs", "list"],
        ["jobs", "cancel", "x"],
        ["tokens", "add", "anna"],
        ["tokens", "list", "anna"],
        ["tokens", "revoke", "anna", "x"],
        ["confirm-clock"],
    ],
)
def test_a_command_in_another_folder_begins_no_service(tmp_path, words):
    data = tmp_path / "data"
    done = CliRunner().invoke(cli, ["serve", *words, "--data", str(data)], input="correct horse\n")
    assert done.exit_code == 2
    assert f"{data}: expected the folder of a service, got none. Name it with --data" in done.output
    assert not data.exists()


def test_the_first_user_is_told_of_smears_from_before(tmp_path):
    settings = ServiceSettings(data=tmp_path / "data")
    Blobs(settings.data)
    database = open_database(settings.database_url)
    with database.begin() as session:
        local = accounts.ensure_user(session, accounts.LOCAL)
        smear = Smear(owner_id=local.id, name="a.jpg", sha256="0" * 64, n_bytes=1, width=1, height=1)
        session.add(smear)
    database.close()
    said = []
    for name in ("anna", "ben"):
        words = ["serve", "users", "add", name, "--data", str(settings.data)]
        said.append(CliRunner().invoke(cli, words, input="correct horse\n").output)
    assert "note: smears dropped without log-in (1) belong to the user local, and others do not see them" in said[0]
    assert said[1] == "ben: added\n"
    (words,) = [line for line in said[0].splitlines() if "hand-over" in line]
    begin = words.index("blastdet serve")
    taking = [*words[begin:].partition(" gives")[0].split()[1:], "--data", str(settings.data)]
    assert CliRunner().invoke(cli, taking).output == "1 smear of local handed over to anna\n"
    database = open_database(settings.database_url)
    with database.read() as session:
        anna = accounts.named_user(session, "anna")
        assert [one.name for one in smears.listed(session, anna.id, smears.Wanted())] == ["a.jpg"]
        assert audit_log.lines(session)[0].action == "smear.hand_over"
    database.close()


def test_the_operator_sees_and_cancels_jobs_of_all(tmp_path):
    settings = ServiceSettings(data=tmp_path / "data")
    Blobs(settings.data)
    database = open_database(settings.database_url)
    with database.begin() as session:
        eve = accounts.ensure_user(session, "eve")
        smear = Smear(owner_id=eve.id, name="secret.jpg", sha256="0" * 64, n_bytes=1, width=90000, height=80000)
        session.add(smear)
        session.flush()
        job, _ = job_rows.ask(session, smear, eve.id, job_rows.JobRequest("default", "0" * 64, {}, "1"))
    where = ["--data", str(settings.data)]
    line = CliRunner().invoke(cli, ["serve", "jobs", "list", *where]).output
    assert line.startswith(f"{job.id}  eve, 90000 x 80000 pixels, asked 20")
    assert line.endswith("Z, queued\n") and "secret" not in line
    done = CliRunner().invoke(cli, ["serve", "jobs", "cancel", job.id, *where])
    assert (done.exit_code, done.output) == (0, f"{job.id}: cancelled\n")
    with database.read() as session:
        assert session.get(Job, job.id).state == "cancelled"
    assert CliRunner().invoke(cli, ["serve", "jobs", "cancel", job.id, *where]).exit_code == 2
    database.close()
