"""The command line: the list of commands, and how an error reaches the terminal.

The commands themselves are in the `*_commands.py` beside this file. One returns nothing or its exit
status. A `TidemillError` ends with 2, Ctrl-C with 130.
"""

import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, ParamSpec

import typer

from tidemill import __version__
from tidemill.deploy import kafka_commands
from tidemill.errors import TidemillError

P = ParamSpec("P")

app = typer.Typer(
    help="Decisions flow out, feedback flows back, and the mill between them makes better models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _with_status(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turn the number a command returns into the exit status of the process."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        status = command(*args, **kwargs)
        if status:
            raise typer.Exit(status)

    return run


def _add(command: Callable[..., int | None], name: str | None = None) -> None:
    app.command(name)(_with_status(command))


_add(kafka_commands.kafka)
_add(kafka_commands.lag)


@app.callback(invoke_without_command=True)
def _every_command(
    version: Annotated[bool, typer.Option("--version", help="Say the version and end.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log more; TIDEMILL_LOG=INFO does the same.")
    ] = False,
) -> None:
    if version:
        typer.echo(f"tidemill {__version__}")
        raise typer.Exit
    level = "INFO" if verbose else os.environ.get("TIDEMILL_LOG", "WARNING").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status instead of leaving the process."""
    try:
        app(args=None if argv is None else list(argv))
    except TidemillError as error:
        print(f"tidemill: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0
