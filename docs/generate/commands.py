"""The command line reference, from the commands themselves."""

from collections.abc import Iterator

import typer
from docs.generate.markdown import cell, code, prose, table
from docs.generate.names import FORMER_NAMES, Command, Parameter, command_tree

FLAGS = frozenset({"bool", "boolean"})
VALUES = {"str": "TEXT", "int": "INTEGER", "float": "NUMBER", "path": "PATH"}


def command_pages() -> str:
    """Return a section for each group of the help, with one for each of its commands."""
    groups: dict[str, list[str]] = {}
    for name, each in shown(command_tree()).items():
        sections = groups.setdefault(str(each.rich_help_panel), [])
        sections += [_section(each, ("tidemill", name)), *_below(each, ("tidemill", name))]
    return "\n\n".join(text for name in groups for text in (f"## {name}", *groups[name]))


def shown(command: Command) -> dict[str, Command]:
    """Return the commands below *command* that its help lists, by name."""
    below: dict[str, Command] = getattr(command, "commands", {})
    return {name: each for name, each in below.items() if not each.hidden}


def _below(command: Command, path: tuple[str, ...]) -> Iterator[str]:
    for name, each in shown(command).items():
        yield _section(each, (*path, name))
        yield from _below(each, (*path, name))


def _section(command: Command, path: tuple[str, ...]) -> str:
    context = typer.Context(command, info_name=" ".join(path))
    listed = [each for each in command.params if not each.hidden]
    arguments = [each for each in listed if each.param_type_name == "argument"]
    options = [each for each in listed if each.param_type_name == "option"]
    parts = ["#" * (len(path) + 1) + " " + " ".join(path), prose(command.help)]
    below = shown(command)
    if below:
        rows = [[code(" ".join((*path, name))), cell(_first(each))] for name, each in below.items()]
        parts.append(table(["command", "what it does"], rows))
    else:
        pieces = [*path, *(["[OPTIONS]"] if options else []), *map(_usage, arguments)]
        parts.append(f"```text\n{' '.join(pieces)}\n```")
    if any(each.help for each in arguments):
        rows = [[code(_metavar(each)), cell(each.help)] for each in arguments]
        parts.append(table(["argument", "meaning"], rows))
    if options:
        rows = [[_option(each, context), _default(each), cell(each.help)] for each in options]
        parts.append(table(["option", "default", "meaning"], rows))
    if (former := FORMER_NAMES.get(" ".join(path[1:]))) is not None:
        parts.append(f"The former name, {code('tidemill ' + former)}, still works.")
    return "\n\n".join(parts)


def _first(command: Command) -> str:
    return (command.help or "").split("\n\n")[0]


def _metavar(argument: Parameter) -> str:
    return (argument.metavar or str(argument.name).upper()).strip("[]. ")


def _usage(argument: Parameter) -> str:
    name = _metavar(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _option(option: Parameter, context: typer.Context) -> str:
    kind = option.display_type(context).strip("<>")
    names = [*option.opts, *option.secondary_opts]
    if kind in FLAGS:
        return " / ".join(map(code, names))
    plain = kind.removeprefix("list[").removesuffix("]").removesuffix(" range").lower()
    value = option.metavar or VALUES.get(plain, plain)
    again = " ..." if kind.startswith("list[") else ""
    return ", ".join(code(f"{name} {value}{again}") for name in names)


def _default(option: Parameter) -> str:
    if option.secondary_opts:
        return code((option.opts if option.default else option.secondary_opts)[0])
    if option.required:
        return "required"
    if option.default is None or option.default is False or option.default == ():
        return ""
    return code(str(option.default))
