"""Measure many payloads at once, byte by byte as the schema says, without decoding them.

For each payload a cursor walks through the fields; all cursors move together, one NumPy operation
for a thousand payloads. A payload passes if every length, branch and boolean is legal and the
cursor ends exactly at its end, so nothing that passes can surprise the decoder that comes next.
What does not pass is not wrong yet: rare but legal forms (lists in several blocks, long lists) do
not pass either, and `slowpath.py` has the last word. Text is not checked for UTF-8 here.
It knows no store, no prefix and no frame.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tidemill.schemas.avrotypes import fields_of, item_of, type_name
from tidemill.schemas.wire import Schema

PADDING = 16
"""Bytes that must follow the last payload: cursors look a little ahead."""
LONG_LIST = 63
"""A list of more items does not pass: its length takes two bytes, and its walk holds others up."""

Positions = NDArray[np.int64]
Flags = NDArray[np.bool_]
Step = Callable[["Cursors", "Flags | None"], "Positions | int"]

_CONTINUES = np.uint64(0x8080808080808080)


class Cursors:
    """Where the cursor of each payload stands in the joined bytes, and which have failed."""

    def __init__(self, data: bytes, starts: Positions, ends: Positions) -> None:
        self.bytes = np.frombuffer(data, dtype=np.uint8)
        self.words = np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
        self.at = starts.copy()
        self.ends = ends
        self.past = ends + 1
        self.failed = np.zeros(len(starts), dtype=np.bool_)

    def move(self, by: Positions | int) -> None:
        """Move on; a cursor that left its payload stays just behind it, so that it cannot pass."""
        self.at += by
        np.minimum(self.at, self.past, out=self.at)

    def fail(self, those: Flags, among: Flags | None) -> None:
        """Note that *those* of the payloads *among* have failed."""
        self.failed |= those if among is None else those & among

    def passed(self) -> Flags:
        """Return which payloads were walked through to their very end."""
        there: Flags = self.at == self.ends
        return there & ~self.failed


def compile_survey(schema: Schema) -> Callable[[bytes, Positions, Positions], Flags]:
    """Return the function that says which payloads of *schema* can be decoded as they stand.

    Its arguments are the joined bytes, with `PADDING` behind them, and where each body starts and
    ends. *schema* has columns for all its fields (`avrotypes.column_type`).
    """
    steps = list(_merged(_record(schema)))

    def survey(data: bytes, starts: Positions, ends: Positions) -> Flags:
        cursors = Cursors(data, starts, ends)
        for step in steps:
            cursors.move(step if isinstance(step, int) else step(cursors, None))
        return cursors.passed()

    return survey


def _record(schema: object) -> list[Step | int]:
    steps: list[Step | int] = []
    for field in fields_of(schema):
        kind = field["type"]
        if isinstance(kind, Mapping) and kind["type"] == "record":
            steps += _record(kind)
        else:
            steps.append(_step(kind))
    return steps


def _merged(steps: Sequence[Step | int]) -> list[Step | int]:
    """Add up neighbours of fixed size: eight doubles are one move."""
    merged: list[Step | int] = []
    for step in steps:
        if isinstance(step, int) and merged and isinstance(merged[-1], int):
            merged[-1] += step
        else:
            merged.append(step)
    return merged


def _step(kind: object) -> Step | int:
    if isinstance(kind, list):
        return _nullable(_step(kind[1] if kind[0] == "null" else kind[0]), kind[0] == "null")
    name = type_name(kind)
    if name == "array":
        return _list(cast(Step, _step(item_of(kind))))
    return _STEPS[name]


def _nullable(inner: Step | int, null_first: bool) -> Step:
    there = 2 if null_first else 0

    def nullable(cursors: Cursors, among: Flags | None) -> Positions | int:
        branch = cursors.bytes[cursors.at]
        cursors.fail((branch & 0xFD) != 0, among)
        some = branch == there
        cursors.move(1)
        size = inner if isinstance(inner, int) else inner(cursors, some)
        moved: Positions = size * some.astype(np.int64)
        return moved

    return nullable


def _boolean(cursors: Cursors, among: Flags | None) -> Positions | int:
    cursors.fail(cursors.bytes[cursors.at] > 1, among)
    return 1


def _number(most: int) -> Step:
    """Return the step over a varint of at most *most* bytes, 8 or 10."""

    def number(cursors: Cursors, among: Flags | None) -> Positions | int:
        ends = ~cursors.words[cursors.at] & _CONTINUES
        size = (np.bitwise_count(ends ^ (ends - np.uint64(1))) >> 3).astype(np.int64)
        if not ends.all():
            more = ends == 0
            if most == 8:
                cursors.fail(more, among)
            else:
                ninth = cursors.bytes[cursors.at + 8]
                tenth = cursors.bytes[cursors.at + 9]
                cursors.fail(more & (ninth > 0x7F) & (tenth > 1), among)
                size = np.where(more, 9 + (ninth > 0x7F), size)
        return size

    return number


def _int(cursors: Cursors, among: Flags | None) -> Positions | int:
    """Step over an int of at most four bytes; the rare longer one could be beyond 32 bits."""
    ends = ~cursors.words[cursors.at] & _CONTINUES
    size = (np.bitwise_count(ends ^ (ends - np.uint64(1))) >> 3).astype(np.int64)
    cursors.fail((ends == 0) | (size > 4), among)
    return size


def _text(cursors: Cursors, among: Flags | None) -> Positions | int:
    """Step over a length and that many bytes."""
    first = cursors.bytes[cursors.at]
    if (first < 0x80).all():
        cursors.fail((first & 1) != 0, among)
        return (first >> 1).astype(np.int64) + 1
    word = cursors.words[cursors.at].astype(np.int64)
    one, two = (word & 0x80) == 0, (word & 0x8000) == 0
    bits = word & 0x7F
    bits |= np.where(one, 0, word >> 1 & 0x3F80)
    bits |= np.where(one | two, 0, word >> 2 & 0x1FC000)
    head = np.where(one, 1, np.where(two, 2, 3))
    too_long = ~(one | two) & ((word & 0x800000) != 0)
    cursors.fail(((bits & 1) != 0) | too_long, among)
    return (bits >> 1) + head


def _list(item: Step) -> Step:
    """Return the step over a list that is one block, or empty."""

    def listed(cursors: Cursors, among: Flags | None) -> Positions | int:
        first = cursors.bytes[cursors.at]
        odd = (first & 0x81) != 0  # negative, or beyond LONG_LIST
        cursors.fail(odd, among)
        count = (first >> 1).astype(np.int64)
        count[odd if among is None else odd | ~among] = 0
        some = count > 0
        cursors.move(1 if among is None else among.astype(np.int64))
        for done in range(int(count.max(initial=0))):
            left = count > done
            size = item(cursors, left)
            cursors.move(size * left.astype(np.int64))
        cursors.fail(some & (cursors.bytes[cursors.at] != 0), among)
        return some.astype(np.int64)

    return listed


_STEPS: Mapping[str, Step | int] = {
    "boolean": _boolean,
    "int": _int,
    "long": _number(10),
    "timestamp-micros": _number(8),  # eight bytes reach from 828 BC to 3111: surely in range
    "float": 4,
    "double": 8,
    "string": _text,
    "bytes": _text,
}
