"""The command line: one file per command, imported when that command runs. Imports click and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

import click

COMMANDS: dict[str, str] = {
    "detect": "find and count the cells of smears",
    "convert": "read a data set, write it as COCO, YOLO or CSV",
    "split": "draw train, val and test sides that do not leak",
    "audit": "look for faults and leaks in a data set",
    "crops": "cut the white cells of a data set out",
    "data": "get data sets, or learn whom to ask for them",
    "synth": "render synthetic smears with exact truth",
    "train": "train a detector from a configuration",
    "runs": "list trainings side by side",
    "export": "export a trained model anew, also in lower precision",
    "evaluate": "measure a model, or anyone's detections",
    "compare": "set two models side by side",
    "review": "see every error, correct cells, carry corrections back",
    "stress": "measure a model on blurred, restained, mis-scaled pictures",
}
"""Command -> one line for ``--help``."""

_GROUPS: dict[str, tuple[str, ...]] = {
    "data_commands": ("audit", "convert", "crops", "data", "split", "synth"),
    "model_commands": ("export", "runs", "train"),
    "analysis_commands": ("compare", "detect", "evaluate", "review", "stress"),
}
_PACKAGE = {command: package for package, commands in _GROUPS.items() for command in commands}

_GOES_ON = "what is done is whole, and --resume (detect, train) goes on from there"

EPILOG = """\b
Exit codes: 0 all done, 1 some files failed (or findings with --strict), 2 bad input or usage.
Research use only: blastdet locates and counts cells, it never states a diagnosis."""


class _Commands(click.Group):
    """Commands listed without importing them, and one line instead of a traceback for what a user can mend."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"blastdet.cli.{_PACKAGE[cmd_name]}.{cmd_name}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            raise _one_line(error) from error

    def invoke(self, ctx: click.Context) -> object:
        from blastdet.core.errors import BlastdetError

        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _one_line(error) from error
        except KeyboardInterrupt:
            click.echo(f"interrupted; {_GOES_ON}", err=True)
            ctx.exit(130)
        except MemoryError as error:
            raise click.ClickException("out of memory; fewer at a time (--jobs), or smaller pictures") from error
        except BlastdetError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except BrokenPipeError:  # the reader of our output has gone; click ends quietly
            raise
        except UnicodeEncodeError as error:
            name = error.object[max(error.start - 40, 0) : error.end + 40]
            raise click.ClickException(f"{name!a}: a name that is not UTF-8; rename it") from error
        except (OSError, UnicodeError, RecursionError) as error:  # a file or a disk, not a fault of ours
            raise click.ClickException(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _one_line(error: click.UsageError) -> click.ClickException:
    """Click's three lines as one, with the command whose help says more."""
    if type(error).__name__ == "NoArgsIsHelpError":  # its text is the help itself; click 8.1 does not know it
        return error
    path = error.ctx.command_path if error.ctx is not None else "blastdet"
    return click.ClickException(f"{' '.join(error.format_message().split())} See '{path} --help'.")


click.ClickException.exit_code = 2  # one code for everything a user can mend; click's own usage errors have it too


@click.group(cls=_Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="blastdet")
def cli() -> None:
    """Find, classify and count nucleated cells on stained blood smears.

    \b
    blastdet detect smear.jpg                 boxes, counts, overlay
    blastdet train configs/bccd-yolov5n.yaml  a model of your own
    """


def main() -> None:
    """Entry point of the ``blastdet`` program."""
    ours = os.getpid()

    def leave(number: int, frame: object) -> None:
        if os.getpid() == ours:  # a process that loads data has it, too
            os.write(2, f"terminated; {_GOES_ON}\n".encode())
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):  # leave as after Ctrl-C: nothing half-written stays behind
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is not
            signal.signal(number, leave)
    cli()
