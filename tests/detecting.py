"""``blastdet detect`` as a user runs it: in a process of its own, or in this one, which saves a second a run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import warnings
from pathlib import Path

from click.testing import CliRunner, Result
from made import check_options_named

from blastdet.cli import cli

SMEAR = Path(__file__).parents[1] / "datasets/demo/smear.jpg"
PROGRAM = [sys.executable, "-m", "blastdet"]
DEMO_MPP = "0.1"


def run_program(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """In a process of its own; its exit code is checked."""
    run = subprocess.run([*PROGRAM, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    check_options_named(words, run.stdout + run.stderr)
    return run


def run_here(*words: object, cwd: Path, code: int = 0) -> Result:
    """In this process; its exit code is checked, and that no error got past the program."""
    with contextlib.chdir(cwd), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a process of its own
        done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    check_options_named(words, done.output)
    return done
