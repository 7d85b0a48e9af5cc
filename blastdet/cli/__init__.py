"""The command line: one file per command, imported when it runs. Commands parse, call and print.

Imports click and nothing else; a command may import every other package.
"""

from __future__ import annotations

import os
import signal
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from blastdet.cli._printing import echo

COMMANDS: dict[str, str] = {
    "detect": "detect, classify and count the cells of smear images",
    "classify": "classify images that show one cell each",
    "convert": "convert a dataset to COCO, YOLO, CSV or GeoJSON",
    "split": "split a dataset into train, val and test without leaks",
    "audit": "check a dataset for errors and leaks",
    "crops": "cut out the white cells of a dataset",
    "data": "list and download public datasets",
    "synth": "render synthetic smears with exact ground truth",
    "init": "write a commented training configuration for your images",
    "train": "train a detector or classifier from a configuration",
    "adapt": "fit the second stage to cells of your own laboratory",
    "calibrate": "calibrate a blast classifier on clusters or laboratories left out of training",
    "runs": "list training runs side by side",
    "export": "export a trained model again, also in lower precision",
    "evaluate": "measure a model, or detections from any source",
    "compare": "compare two models on the same images",
    "review": "inspect errors, correct cells, save corrections",
    "serve": "run a service: a page to drop smears into, and an API",
    "robustness": "measure a model on blurred, restained or wrongly scaled images",
}
"""Command -> one line for ``--help``."""

RENAMED = {"stress": "robustness"}
"""Names of commands in earlier versions, which still work."""

_GROUPS: dict[str, tuple[str, ...]] = {
    "data_commands": ("audit", "convert", "crops", "data", "split", "synth"),
    "model_commands": ("adapt", "calibrate", "export", "init", "runs", "serve", "train"),
    "analysis_commands": ("classify", "compare", "detect", "evaluate", "review", "robustness"),
}
_PACKAGE = {command: package for package, commands in _GROUPS.items() for command in commands}

_CONTINUE = "finished files are complete; --resume (detect, classify, train) continues from there"

EPILOG = """\b
Exit codes: 0 success, 1 some files failed, or a check found something (audit --strict, split, data verify),
2 bad input or usage.
Research use only: blastdet locates and counts cells. It never states a diagnosis."""


class _Error(click.ClickException):
    """A one-line error. Everything that a user can correct has the exit code of click's usage errors."""

    exit_code = 2


class _Commands(click.Group):
    """Lists commands without importing them, and prints one line instead of a traceback for errors of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in RENAMED:
            echo(f"note: {cmd_name} is now {RENAMED[cmd_name]}", err=True)
            cmd_name = RENAMED[cmd_name]
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"blastdet.cli.{_PACKAGE[cmd_name]}.{cmd_name}").command
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Click's own, with a suggestion for a mistyped name: click only knows commands that are already imported."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], COMMANDS, 1)
            if near:
                raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near[0]!r}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            raise _one_line(error) from error

    def _fewer(self, ctx: click.Context) -> str:
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        has_jobs = command is not None and any("--jobs" in option.opts for option in command.params)
        return "fewer images at a time (--jobs), or " if has_jobs else ""

    def invoke(self, ctx: click.Context) -> object:
        from blastdet.core.errors import BlastdetError

        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _one_line(error) from error
        except KeyboardInterrupt:
            echo(f"interrupted; {_CONTINUE}", err=True)
            ctx.exit(130)
        except MemoryError as error:
            raise _Error(f"out of memory. Process {self._fewer(ctx)}smaller images") from error
        except BlastdetError as error:
            raise _Error(" ".join(str(error).split())) from error
        except BrokenPipeError:  # the reader of the output is gone; click exits quietly
            raise
        except UnicodeEncodeError as error:
            name = error.object[max(error.start - 40, 0) : error.end + 40]
            raise _Error(f"{name!a}: the file name is not valid UTF-8. Rename the file") from error
        except (OSError, UnicodeError, RecursionError) as error:  # a file or a disk, not a bug
            raise _Error(_of_system(error)) from error


def _of_system(error: Exception) -> str:
    """An error of a file or a disk as one line: which file, and what is wrong."""
    from blastdet.core.errors import in_a_line, one_line

    if isinstance(error, OSError) and error.filename is not None:
        return f"{in_a_line(str(error.filename), 400)}: {one_line(error)}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _one_line(error: click.UsageError) -> click.ClickException:
    """Click's three lines as one, with the command to ask for help."""
    if type(error).__name__ == "NoArgsIsHelpError":  # its text is the help itself; click 8.1 lacks the class
        return error
    path = error.ctx.command_path if error.ctx is not None else "blastdet"
    return _Error(f"{' '.join(error.format_message().split())} See '{path} --help'.")


@click.group(cls=_Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="blastdet")
def cli() -> None:
    """Detect, classify and count nucleated cells on stained blood smears.

    \b
    blastdet detect smear.jpg                 boxes, counts, overlay
    blastdet train configs/bccd-yolov5n.yaml  your own model
    """


def main() -> None:
    """Entry point of the ``blastdet`` program."""
    ours = os.getpid()

    def leave(number: int, frame: object) -> None:
        if os.getpid() == ours:  # processes that load data inherit the handler
            os.write(2, f"terminated; {_CONTINUE}\n".encode())
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):  # exit as after Ctrl-C: no half-written file stays
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is not
            signal.signal(number, leave)
    cli()
