"""The command line: the tree of commands, their exit status, and how an error is printed.

A command returns None or its exit status: 0 if all is well, 1 for a finding. A `TidemillError` ends
the process with its own status: 2, or 3 where Kafka could not be looked at; a command that looks at
the lake, and cannot, ends with 3 too. Any other error ends it with 2, Ctrl-C with 130.
"""

import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, ParamSpec

import typer
from typer.core import TyperGroup
from typer.main import get_group

from tidemill import __version__
from tidemill.cli.catalog import COMMANDS, NOUNS, Command
from tidemill.cli.log_setup import set_up_logging
from tidemill.cli.terminal import harmless_lines, print_error
from tidemill.errors import LakeError, TidemillError

P = ParamSpec("P")


def main(argv: Sequence[str] | None = None, commands: Sequence[Command] = COMMANDS) -> int:
    """Run one of *commands*; return its exit status instead of leaving the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    words = [argument for argument in arguments if not argument.startswith("-")][:2]
    try:
        command_tree(commands, words)(args=arguments, prog_name="tidemill")
    except TidemillError as error:
        print_error(error)
        looks = any(each.group == "Look" and each.is_called_by(words) for each in commands)
        return 3 if looks and isinstance(error, LakeError) else error.status
    except KeyboardInterrupt:
        return 130
    except Exception:  # the outermost loop: 1, Python's own status, would say that it is a finding
        print(harmless_lines(traceback.format_exc()), end="", file=sys.stderr)
        print_error("the command failed by an error of its own")
        return 2
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0


def command_tree(commands: Sequence[Command], words: list[str]) -> TyperGroup:
    """Return the tree of *commands*, in their order; only the one that *words* call is imported."""
    app = _new_typer(
        "Decisions flow out, feedback flows back, the mill between makes better models."
    )
    app.callback()(_for_every_command)
    nouns: dict[str, typer.Typer] = {}
    for command in commands:
        *noun, last = command.words
        if not noun:
            _add(app, last, command, words, panel=command.group)
            continue
        if noun[0] not in nouns:
            nouns[noun[0]] = _new_typer(NOUNS[noun[0]])
            app.add_typer(nouns[noun[0]], name=noun[0], rich_help_panel=command.group)
        _add(nouns[noun[0]], last, command, words)
        if command.alias is not None:
            _add(app, command.alias, command, words, hidden=True)
    return _in_order(get_group(app), commands)


def _new_typer(summary: str) -> typer.Typer:
    return typer.Typer(
        help=summary, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )


def _add(
    parent: typer.Typer,
    name: str,
    command: Command,
    words: list[str],
    *,
    panel: str | None = None,
    hidden: bool = False,
) -> None:
    """Add *command* to *parent* under *name*; without its function unless *words* call it."""
    if command.is_called_by(words):
        imported = _imported(command)
        help_, function = _paragraphs(imported.__doc__ or ""), _exits_with_status(imported)
    else:
        help_, function = command.summary, _not_called
    parent.command(name, help=help_, hidden=hidden, rich_help_panel=panel)(function)


def _in_order(tree: TyperGroup, commands: Sequence[Command]) -> TyperGroup:
    """List the commands in their order in the catalog; Typer lists all nouns first."""
    places = {command.words[0]: place for place, command in reversed([*enumerate(commands)])}
    in_order = sorted(tree.commands, key=lambda name: places.get(name, len(places)))
    tree.commands = {name: tree.commands[name] for name in in_order}
    return tree


def _imported(command: Command) -> Callable[..., int | None]:
    module = importlib.import_module(f"tidemill.cli.commands.{command.module}")
    function: Callable[..., int | None] = getattr(module, command.function)
    return function


def _paragraphs(docstring: str) -> str:
    """Return *docstring* with one line for each paragraph, for Typer to wrap."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.split("\n\n"))


def _exits_with_status(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turn the number that *command* returns into the exit status of the process."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        status = command(*args, **kwargs)
        if status:
            raise typer.Exit(status)

    return run


def _not_called() -> None:
    """Take the place of a command that is only listed."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tidemill {__version__}")
        raise typer.Exit


def _for_every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log more; TIDEMILL_LOG=INFO does the same.")
    ] = False,
) -> None:
    set_up_logging(verbose=verbose)
