"""The YAML subset of loop files, with line numbers: only what every reader understands alike.

It has texts, numbers, true, false, null, lists, and maps with text keys; yes, no and dates are
texts. It refuses tags, several documents, merge keys, duplicate keys, and files that are huge or
become huge when aliases are expanded.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import yaml

from tidemill.errors import LoopError

MAX_DEPTH = 20
MAX_NODES = 20_000

Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]
_RESOLVERS = (
    ("tag:yaml.org,2002:null", r"^(?:~|null|)$", ["~", "n", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", ["t", "f"]),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$",
        list("-+0123456789."),
    ),
)


class PlainLoader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2 does: yes, no, on, off and dates are texts."""

    yaml_implicit_resolvers: Resolvers = {}  # noqa: RUF012  # as PyYAML declares it


class PlainDumper(yaml.SafeDumper):
    """Quotes exactly the texts that `PlainLoader` would not read as texts."""

    yaml_implicit_resolvers: Resolvers = {}  # noqa: RUF012  # as PyYAML declares it


for _tag, _pattern, _first in _RESOLVERS:
    PlainLoader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    PlainDumper.add_implicit_resolver(_tag, re.compile(_pattern), _first)


@dataclass(frozen=True, slots=True)
class YamlTree:
    """The value of a YAML text, and the line (from 1) of every path in it."""

    value: object
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)

    def line(self, path: tuple[str, ...]) -> int:
        """Return the line of *path*, or of its nearest parent in the text."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_tree(text: str, *, file: str) -> YamlTree:
    """Return the value of the YAML *text* with its lines.

    Raises:
        LoopError: it is not YAML, not in the subset, not a map, or too large; with its line.
    """
    reader = _YamlReader(file)
    try:
        reader.check_size(text)
        node = yaml.compose(text, Loader=PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise LoopError(
            f"is not YAML: {error.problem or error.context}",
            hint="look at the indentation, colons and quotes of this line and the one before",
            file=file,
            line=mark.line + 1 if mark else None,
        ) from error
    except yaml.YAMLError as error:
        raise LoopError(
            f"is not YAML: {' '.join(str(error).split())}",
            hint="remove the characters that are not text",
            file=file,
        ) from error
    if not isinstance(node, yaml.MappingNode):
        raise LoopError(
            "defines nothing" if node is None else "is no map of keys and values",
            hint="start it with loop: and a name, or write one with: tidemill init",
            file=file,
            line=1,
        )
    return YamlTree(reader.value(node, (), 0), reader.lines)


class _YamlPosition(Protocol):
    """A position in the text; each of the two scanners of PyYAML has a class for it."""

    @property
    def line(self) -> int: ...


class _YamlReader:
    """Builds values within a budget, so that neither nesting nor aliases exhaust memory."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._left = MAX_NODES
        self.lines: dict[tuple[str, ...], int] = {}

    def _wrong(self, mark: _YamlPosition | None, what: str, hint: str) -> LoopError:
        line = mark.line + 1 if mark else None
        return LoopError(what, hint=hint, file=self._file, line=line)

    def check_size(self, text: str) -> None:
        """Refuse deep nesting, before any code recurses into it."""
        depth = 0
        for event in yaml.parse(text, Loader=PlainLoader):
            self._spend(event.start_mark)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                what = f"is nested deeper than {MAX_DEPTH} levels"
                raise self._wrong(event.start_mark, what, "a loop has six; check the brackets")
        self._left = MAX_NODES

    def _spend(self, mark: _YamlPosition | None) -> None:
        self._left -= 1
        if self._left < 0:
            what = f"has more than {MAX_NODES:,} values once its aliases are expanded"
            raise self._wrong(mark, what, "write the values out, or split the loop")

    def value(self, node: yaml.Node, path: tuple[str, ...], depth: int) -> object:
        """Return the value of *node*, and record the line of everything in it."""
        self._spend(node.start_mark)
        self.lines.setdefault(path, node.start_mark.line + 1 if path else 1)
        if depth > MAX_DEPTH:
            raise self._wrong(node.start_mark, "contains itself", "remove the alias")
        if isinstance(node, yaml.MappingNode):
            return {
                key: self.value(child, (*path, key), depth + 1)
                for key, child in self._items(node, path)
            }
        if isinstance(node, yaml.SequenceNode):
            return [
                self.value(child, (*path, str(index)), depth + 1)
                for index, child in enumerate(node.value)
            ]
        return self._scalar(node)

    def _items(
        self, node: yaml.MappingNode, path: tuple[str, ...]
    ) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key, child in node.value:
            name, line = key.value, key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str" or name == "<<":
                what = f"key {name!r} is not a plain name"
                raise self._wrong(key.start_mark, what, "use a text as key, in quotes if need be")
            if name in seen:
                what = f"key {name!r} is given twice, first in line {seen[name]}"
                raise self._wrong(key.start_mark, what, "keep one of the two")
            seen[name] = line
            self.lines[*path, name] = line
            yield name, child

    def _scalar(self, node: yaml.Node) -> object:
        text = str(node.value)
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "null":
                return None
            case "bool":
                return text == "true"
            case "int" if len(text) <= 40:
                return int(text)
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case "str":
                return text
        what = f"value {text[:40]!r} has the tag {node.tag}"
        raise self._wrong(node.start_mark, what, "write a plain text, number, true, false or null")
