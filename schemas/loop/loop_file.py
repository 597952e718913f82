"""Loop files: read YAML into a `Loop`; every diagnostic has its file, its line and a hint.

The YAML is a subset (`yaml_subset.py`). The SQL of the label is checked in `labels.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.diagnostics import diagnostics
from tidemill.schemas.loop.yaml_subset import PlainDumper, YamlTree, read_tree

MAX_BYTES = 256 * 1024  # a loop file of a thousand features has 60 kB


class LoopFileError(LoopError):
    """A loop file is wrong; *diagnostics* are all errors in it, of which this one is the first."""

    def __init__(self, errors: list[LoopError]) -> None:
        first = errors[0]
        super().__init__(first.what, hint=first.hint, file=first.file, line=first.line)
        self.diagnostics = errors

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.diagnostics)


@dataclass(frozen=True, slots=True)
class LoopFile:
    """A legal loop, with the line of every part of its file."""

    loop: Loop
    file: str
    lines: Mapping[tuple[str, ...], int]

    def line(self, *path: str) -> int:
        """Return the line of *path*, or of its nearest parent in the file."""
        return YamlTree(None, dict(self.lines)).line(path)


def parse_loop(text: str, *, file: str = "loop.yaml") -> Loop:
    """Return the loop that *text* defines.

    Raises:
        LoopError: it defines none; a `LoopFileError` has all diagnostics, each with its line.
    """
    return read_text(text, file=file).loop


def load_loop(path: Path | str) -> Loop:
    """Return the loop that the file at *path* defines.

    Raises:
        LoopError: the file cannot be read or defines no loop; see `parse_loop`.
    """
    return read_file(path).loop


def read_file(path: Path | str) -> LoopFile:
    """Return the loop of the file at *path* with its lines; raises as `load_loop`."""
    file = str(path)
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise LoopError(
            f"cannot be read: {error.strerror}",
            hint="name an existing loop file, or write one with: tidemill init",
            file=file,
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LoopError(
            f"is not UTF-8 text: byte {error.start} cannot be read",
            hint="save the file as UTF-8",
            file=file,
            line=raw[: error.start].count(b"\n") + 1,
        ) from error
    return read_text(text, file=file)


def read_text(text: str, *, file: str) -> LoopFile:
    """Return the loop of *text* with its lines; raises as `parse_loop`."""
    if len(text) > MAX_BYTES:
        raise LoopError(
            f"is larger than {MAX_BYTES // 1024} kB",
            hint="a loop file is short; keep long lists of features in one loop each",
            file=file,
        )
    tree = read_tree(text, file=file)
    try:
        loop = Loop.model_validate(tree.value)
    except ValidationError as error:
        found = [
            LoopError(each.what, hint=each.hint, file=file, line=tree.line(each.path))
            for each in diagnostics(error, tree.value)
        ]
        # A misspelt key is also a missing one: show the misspelling first.
        found.sort(key=lambda one: (one.what.endswith("is missing"), one.line or 0))
        raise LoopFileError(found) from error
    return LoopFile(loop, file, tree.lines)


def dump_loop(loop: Loop) -> str:
    """Return *loop* as the text of a loop file; `parse_loop` turns it into an equal value."""
    value = loop.model_dump(mode="json", exclude_defaults=True)
    value = {"loop": loop.loop, "version": loop.version, **value}
    items = value["decision"].get("items")
    if items is not None:
        del value["decision"]["default"]
    groups = [value["features"], *([] if items is None else [items["features"]])]
    groups += (kind.get("values", {}) for kind in value["feedback"].values())
    for fields in groups:
        for name, field in fields.items():
            if set(field) == {"type"}:
                fields[name] = field["type"]
    return yaml.dump(value, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=96)
