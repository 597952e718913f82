"""The command line: the list of commands, and how an error reaches the terminal.

The commands themselves are in `cli/commands/`, loaded when one is called: a
person who asks for help waits for no database. A command returns nothing or its exit status; a
`TidemillError` ends with 2, Ctrl-C with 130.
"""

import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, ParamSpec

import typer

from tidemill import __version__
from tidemill.errors import TidemillError

P = ParamSpec("P")

# name -> module of this folder, function, first line of its help; in order of use. Several
# functions are commands of their own below that name.
COMMANDS = {
    "demo": ("demo", "demo", "Play a year of real flights through the whole loop."),
    "init": ("loop", "init", "Write a loop file to start from, and its JSON Schema."),
    "check": ("loop", "check", "Say what a loop file defines, or what is wrong with it."),
    "diff": ("loop", "diff", "Show what changed between two versions of a loop."),
    "schema": ("loop", "schema", "Print the JSON Schema of loop files, for editors."),
    "publish": ("loop", "publish", "Check a loop file and publish it."),
    "up": ("demo", "up", "Run all processes of loops here, until Ctrl-C."),
    "kafka": ("kafka", "kafka", "Find a Kafka or start one, and keep it until Ctrl-C."),
    "worker": ("worker", "worker", "Join decisions and feedback into the lake."),
    "close": ("worker", "close", "Close the windows of a replay that has ended."),
    "serve": ("serve", "serve", "Serve decisions over HTTP."),
    "train": ("train", "train", "Train the models of a loop as examples come in."),
    "models": ("train", "models", "Show every model a loop ever made, and why."),
    "keys": ("train", "keys", "Make the keys that models are signed with."),
    "monitor": ("monitor", "monitor", "Watch lag, freshness and ledger over HTTP."),
    "dead-letters": (
        "deadletters",
        "show replay",
        "Show what could not be read, or send it again once it can be.",
    ),
    "lag": ("kafka", "lag", "Show how far consumer groups are behind."),
    "ledger": ("lake", "ledger", "Show that every record read is accounted for."),
    "audit": ("audit", "audit", "Compute closed windows anew, and compare."),
    "trace": ("trace", "trace", "Show the whole life of one decision."),
    "sql": ("lake", "sql", "Ask the lake a question in SQL."),
    "backfill": ("backfill", "backfill", "Make examples again by another window."),
    "replay": ("replay", "replay", "Read the topics once more, into a lake of its own."),
    "compact": ("lake", "compact", "Merge the lake's small files."),
}


def _with_status(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turn the number a command returns into the exit status of the process."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        status = command(*args, **kwargs)
        if status:
            raise typer.Exit(status)

    return run


def _not_called() -> None:
    """Stand for a command in the list of commands; the one that is called is loaded."""


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tidemill {__version__}")
        raise typer.Exit


def _every_command(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_say_version, help="Say the version."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log more; TIDEMILL_LOG=INFO does the same.")
    ] = False,
) -> None:
    level = "INFO" if verbose else os.environ.get("TIDEMILL_LOG", "WARNING").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if logging.getLogger().level > logging.INFO:  # what and hint say it once, and in words
        logging.getLogger("tidemill.librdkafka").setLevel(logging.CRITICAL)


def make_app(called: str | None) -> typer.Typer:
    """Return the command line with the command *called* loaded and all others only listed."""
    app = typer.Typer(
        help="Decisions flow out, feedback flows back, the mill between makes better models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_every_command)
    for name, (module, function, summary) in COMMANDS.items():
        if name == called:
            loaded = importlib.import_module(f"tidemill.cli.commands.{module}")
            commands = [getattr(loaded, each) for each in function.split()]
            if len(commands) == 1:
                app.command(name)(_with_status(commands[0]))
                continue
            group = typer.Typer(help=summary, no_args_is_help=True)
            for command in commands:
                group.command(command.__name__)(_with_status(command))
            app.add_typer(group, name=name)
        else:
            app.command(name, help=summary)(_not_called)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status instead of leaving the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        make_app(called)(args=arguments)
    except TidemillError as error:
        print(f"tidemill: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0
