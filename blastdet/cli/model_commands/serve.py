"""``blastdet serve``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import Number
from blastdet.cli._printing import echo
from blastdet.core.errors import counted


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where a service keeps its data."""
    options = [
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            default="blastdet-data",
            show_default=True,
            help="Folder of database, queue and files.",
        ),
        click.option("--database", envvar="BLASTDET_DATABASE", help="postgresql://…  [default: SQLite in --data]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _settings(**values: Any) -> Any:
    from blastdet.core.packages import require

    require("serve", "fastapi", "uvicorn", "sqlalchemy", "alembic", "huey", "argon2", "prometheus_client")
    from blastdet.service.settings import make_settings

    return make_settings(**values)


def _parse_weights(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    pairs = [one.partition("=") for one in value]
    if wrong := [name for name, _, folder in pairs if not name or not folder]:
        raise click.BadParameter(f"expected NAME=FOLDER, got {wrong[0]}.")
    return {name: folder for name, _, folder in pairs}


@click.group("serve", invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@_where
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes that analyze.")
@click.option("--engines", type=click.IntRange(1, 64), help="Processes for /detect. [default: one per core, at most 4]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--weights", multiple=True, callback=_parse_weights, metavar="NAME=FOLDER", help="A further model. Repeatable."
)
@click.option("--auth", type=click.Choice(["none", "users", "proxy"]), help="How users are known. [default: see below]")
@click.option("--auth-header", help="Header in which a trusted proxy names the user, such as X-Remote-User.")
@click.option("--trusted-proxy", "trusted_proxies", multiple=True, metavar="CIDR", help="Network of it. Repeatable.")
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="Name that browsers use. Repeatable."
)
@click.option("--tls-certificate", type=click.Path(path_type=Path), help="PEM file; with --tls-key, serves https.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file of its key.")
@click.option("--keep-days", type=Number(0, 36500, min_open=True), help="Delete smears after so many days.")
@click.option("--max-upload-mb", type=Number(0, min_open=True), help="Largest smear. [default: 8192]")
@click.option(
    "--user-disk-gb",
    type=Number(0, min_open=True),
    help="Disk space for the smears of one user, in GB. [default: no limit]",
)
@click.option(
    "--silence-seconds",
    type=Number(0, min_open=True),
    help="Longest pause of a client within a request, in seconds. [default: 30]",
)
@click.option("--memory-mb", type=click.IntRange(256), help="Of one computing process. [default: 4096]")
@click.option("--requests-per-minute", type=click.IntRange(0), help="Of one user; 0: no limit. [default: 3000]")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Run a service: a page to drop smears into, and an API for other programs.

    \b
    Examples:
      blastdet serve                                     http://127.0.0.1:8000, this machine only
      blastdet serve users add anna --admin              a user; asks for a password
      blastdet serve --host 0.0.0.0 --tls-certificate cert.pem --tls-key key.pem

    Everything is kept in --data. Nothing else has to be installed or started.

    Off this machine the service only starts with authentication: users with passwords and tokens, or the header of a
    trusted proxy. Without --auth, users log in as soon as there are any.

    Exit codes: 0 stopped in order, 2 bad input or usage, or the service cannot start.
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = {name: options[name] for name in ("data", "database")}
        return
    settings = _settings(**options)
    from blastdet.service.supervisor import serve

    serve(settings, echo)


@command.command("confirm-clock")
@_where
def confirm_clock(**where: Any) -> None:
    """Say that the time of this machine is right, after a jump suspended --keep-days."""
    settings = _settings(**where)
    from blastdet.service import administration

    was_held = administration.confirm_clock(settings)
    echo("clock: confirmed" if was_held else "clock: nothing is held back, so there was nothing to confirm")


@command.group("users")
def users() -> None:
    """Who may log in."""


@command.group("tokens")
def tokens() -> None:
    """Tokens for programs."""


@command.group("jobs")
def jobs() -> None:
    """What is analyzed, for all users."""


def _password() -> str:
    """From the terminal, asked twice; without one, the first line of stdin."""
    if sys.stdin.isatty():
        answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return answer
    return sys.stdin.readline().rstrip("\r\n")


@users.command("add")
@click.argument("name")
@click.option("--admin", is_flag=True, help="May read the audit log.")
@click.option("--no-password", is_flag=True, help="For tokens only.")
@_where
def add(name: str, admin: bool, no_password: bool, **where: Any) -> None:
    """Add user NAME. The password is asked for, or read from standard input."""
    settings = _settings(**where)
    from blastdet.service.administration import add_user

    n_local = add_user(settings, name, None if no_password else _password(), is_admin=admin)
    echo(f"{name}: added")
    if n_local:
        echo(
            f"note: smears dropped without log-in ({n_local}) belong to the user local, and others do not see them. "
            f"blastdet serve users hand-over local {name} gives them to {name}"
        )


@users.command("password")
@click.argument("name")
@click.option("--revoke-tokens", is_flag=True, help="Its tokens end, too.")
@_where
def password(name: str, revoke_tokens: bool, **where: Any) -> None:
    """Give user NAME another password; its sessions end."""
    settings = _settings(**where)
    from blastdet.service.administration import set_password

    n_tokens = set_password(settings, name, _password(), revoke_tokens=revoke_tokens)
    echo(f"{name}: password changed")
    if n_tokens and revoke_tokens:
        echo(f"{counted(n_tokens, 'token')} revoked")
    elif n_tokens:
        echo(f"note: {counted(n_tokens, 'token')} of {name} stay valid. --revoke-tokens ends them")


@users.command("remove")
@click.argument("name")
@_where
def remove(name: str, **where: Any) -> None:
    """Remove user NAME, who must own no smear."""
    settings = _settings(**where)
    from blastdet.service.administration import remove_user

    remove_user(settings, name)
    echo(f"{name}: removed")


@users.command("hand-over")
@click.argument("giver")
@click.argument("taker")
@_where
def hand_over(giver: str, taker: str, **where: Any) -> None:
    """Make user TAKER the owner of all smears of user GIVER."""
    settings = _settings(**where)
    from blastdet.service import administration

    n, n_kept = administration.hand_over(settings, giver, taker)
    echo(f"{counted(n, 'smear')} of {giver} handed over to {taker}")
    if n_kept:
        echo(f"note: {giver} keeps {counted(n_kept, 'smear')}, as {taker} has the same images")


@users.command("list")
@_where
def list_users(**where: Any) -> None:
    """List users."""
    settings = _settings(**where)
    from blastdet.service import administration

    for line in administration.list_users(settings) or ["no users"]:
        echo(line)


@tokens.command("add")
@click.argument("user")
@click.option("--name", default="token", show_default=True, help="What it is for.")
@click.option("--scope", type=click.Choice(["read", "write", "detect"]), default="write", show_default=True)
@click.option("--days", type=Number(0, 3650, min_open=True), default=90, show_default=True, help="Until it expires.")
@_where
def add_token(user: str, name: str, scope: str, days: float, **where: Any) -> None:
    """Add a token of USER and print it. It is shown once."""
    settings = _settings(**where)
    from blastdet.service import administration

    echo(administration.add_token(settings, user, name, scope, days))


@tokens.command("list")
@click.argument("user")
@_where
def list_tokens(user: str, **where: Any) -> None:
    """List the tokens of USER."""
    settings = _settings(**where)
    from blastdet.service import administration

    for line in administration.list_tokens(settings, user) or ["no tokens"]:
        echo(line)


@tokens.command("revoke")
@click.argument("user")
@click.argument("token_id")
@_where
def revoke(user: str, token_id: str, **where: Any) -> None:
    """Revoke the token TOKEN_ID of USER, and those that were made with it."""
    settings = _settings(**where)
    from blastdet.service import administration

    n_more = administration.revoke_token(settings, user, token_id)
    echo(f"{token_id}: revoked" + (f", with {counted(n_more, 'token')} made with it" if n_more else ""))


@jobs.command("list")
@_where
def list_jobs(**where: Any) -> None:
    """List the jobs that wait or run."""
    settings = _settings(**where)
    from blastdet.service import administration

    for line in administration.list_jobs(settings) or ["no jobs"]:
        echo(line)


@jobs.command("cancel")
@click.argument("job_id")
@_where
def cancel(job_id: str, **where: Any) -> None:
    """Cancel the job JOB_ID of any user. A running one stops after its current tile."""
    settings = _settings(**where)
    from blastdet.service import administration

    administration.cancel_job(settings, job_id)
    echo(f"{job_id}: cancelled")
