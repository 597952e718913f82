"""The records of the topic of loops: their keys, their values, and what all of them say together.

`published.py` reads and writes the topic.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import ValidationError

from tidemill.errors import ContractError, LoopError
from tidemill.kafka import BadRecord, CompactedLog, Record
from tidemill.schemas.loop.definition import Loop

Published = dict[tuple[str, int], Loop]


@dataclass(frozen=True, slots=True)
class LoopTopic:
    """What the topic of loops has: *loops*, and the records that define none."""

    loops: Published
    bad: Sequence[BadRecord]

    @classmethod
    def of(cls, log: CompactedLog[Loop]) -> Self:
        """Return what *log*, which holds the values of the topic, has now."""
        return cls({(loop.loop, loop.version): loop for loop in log.values}, log.bad)

    def newest_number(self, name: str) -> int:
        """Return the highest version of the loop *name* that a record is about, or 0.

        A record that cannot be read counts: a newer tidemill may have written it.
        """
        keys = [bad.key.rpartition("/") for bad in self.bad]
        unread = (int(n) for key, _, n in keys if key == name and n.isascii() and n.isdigit())
        return max([*versions(self.loops, name), *unread], default=0)


def key_of(loop: Loop) -> bytes:
    """Return the key of *loop* on the topic, say ``b"flight-delay/1"``."""
    return f"{loop.loop}/{loop.version}".encode()


def parse_loop(record: Record) -> Loop:
    """Return the loop that *record* of the topic defines.

    Raises:
        LoopError: it defines none, or another than its key says.
    """
    try:
        loop = Loop.model_validate(json.loads(record.value or b""))
    except (ValidationError, ValueError, RecursionError) as error:
        raise LoopError(
            f"no legal loop: {_first_line(error)}",
            hint="was it written by a newer tidemill? upgrade this one, or publish it again",
        ) from error
    if record.key != key_of(loop):
        raise LoopError(
            f"version {loop.version} of {loop.loop} under another key",
            hint="publish it with tidemill publish; it writes the key",
        )
    return loop


def check_unchanged(before: Loop, after: Loop) -> None:
    """Check that *after*, written under the key of *before*, is the same definition.

    Raises:
        LoopError: it is another one.
    """
    if before.digest != after.digest:
        raise LoopError(
            f"another content of version {before.version} of {before.loop}",
            hint="a version never changes: publish it as a new one",
        )


def _first_line(error: Exception) -> str:
    """Return what is wrong, and where, without the input."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return f"{type(error).__name__}: {error}"


def newest(published: Published, name: str) -> Loop:
    """Return the newest version of the loop *name*; ContractError if there is none."""
    known = versions(published, name)
    if not known:
        raise unpublished(published, name)
    return known[max(known)]


def used_loops(published: Published) -> dict[str, Loop]:
    """Return the newest version of each loop that is not retired, by name, sorted."""
    names = sorted({name for name, _version in published})
    newest_of = {name: newest(published, name) for name in names}
    return {name: loop for name, loop in newest_of.items() if not loop.retired}


def retired_version(loop: Loop, why: str) -> Loop:
    """Return the version after *loop*, its newest one, that retires it.

    Raises:
        ContractError: it is retired already.
    """
    if loop.retired:
        raise retired_error(loop)
    return loop.model_copy(update={"version": loop.version + 1, "retired": why})


def retired_error(loop: Loop) -> ContractError:
    """Return the error for using *loop*, which is retired."""
    return ContractError(
        f"the loop {loop.loop} is retired: {loop.retired}",
        hint=f"to use it again, publish it without `retired` as version {loop.version + 1}",
    )


def unpublished(published: Published, name: str) -> ContractError:
    """Return the error for a loop *name* that is not published."""
    names = ", ".join(sorted({loop for loop, _ in published})) or "none"
    return ContractError(
        f"no loop {name!r} is published",
        hint=f"publish it: tidemill publish LOOP.yaml; published are: {names}",
    )


def versions(published: Published, name: str) -> Mapping[int, Loop]:
    """Return the versions of the loop *name* by their number."""
    return {version: loop for (known, version), loop in published.items() if known == name}
