"""A real PostgreSQL for tests, from the programs that Debian's package installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def postgres_folder() -> Path | None:
    """Folder of PostgreSQL's programs, if it is installed."""
    for name in ("pg_ctl", *sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)):
        found = shutil.which(str(name))
        if found and (Path(found).resolve().parent / "initdb").exists():
            return Path(found).resolve().parent
    return None


def control(url: str, action: str) -> None:
    """Stop the PostgreSQL of a URL without warning, or start it again."""
    folder, programs = Path(url.partition("host=")[2]), postgres_folder()
    assert programs is not None
    as_user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if folder.owner() == "postgres" else {}
    command = [programs / "pg_ctl", "-D", folder / "db", "-w", "-t", "120", "-l", folder / "log", "-m", "immediate"]
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    command += ["-o", options, action] if action == "start" else [action]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user)


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own; yields the URL of an empty database. It listens on a socket in its folder only."""
    programs = postgres_folder()
    assert programs is not None
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        as_user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if as_user:
            shutil.chown(folder, "postgres", "postgres")
        run: dict[str, Any] = {"check": True, "capture_output": True, "cwd": folder, **as_user}
        subprocess.run(
            [programs / "initdb", "-D", folder / "db", "-U", "blastdet", "-A", "trust", "-E", "UTF8", "--no-sync"],
            **run,
        )
        url = f"postgresql://blastdet@/postgres?host={folder}"
        control(url, "start")
        try:
            yield url
        finally:
            control(url, "stop")
