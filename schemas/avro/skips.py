"""Step over values without reading them: where the items of a list begin.

The items of a list lie one behind the other, and each may have another width. Cursors step over
them one by one, as cheaply as they can, and check nothing: all items are read at once later, and
what is wrong fails then.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import cast

from tidemill.schemas.avro.cursors import Cursors, Read
from tidemill.schemas.avro.types import fields_of, optional, type_name

Skip = Callable[[Cursors], object]

_SIZES: Mapping[str, int] = {"double": 8, "float": 4, "boolean": 1}
_NUMBERS = frozenset(("int", "long", "timestamp-micros"))
_TEXTS = frozenset(("string", "bytes"))


def compile_skip(kind: object, read: Callable[[object], Read]) -> Skip:
    """Return the function that steps over values of *kind*.

    *read* compiles the reader of a type. It does the work where that is seldom the expensive part.
    """
    may_be_null, plain = optional(kind)
    name = type_name(plain)
    if may_be_null:
        present = 2 * cast(Sequence[object], kind).index(plain)
        if name in _SIZES:
            return partial(_some, present, _SIZES[name])
        return partial(_some_number, present, read(kind)) if name in _NUMBERS else read(kind)
    if name == "record":
        return _record(plain, read)
    if name in _SIZES:
        return partial(_bytes, _SIZES[name])
    if name in _NUMBERS:
        return Cursors.number
    return _text if name in _TEXTS else read(kind)


def _record(schema: object, read: Callable[[object], Read]) -> Skip:
    steps: list[Skip] = []
    for size, group in groupby(fields_of(schema), lambda each: _SIZES.get(type_name(each["type"]))):
        fields = list(group)
        if size is None:
            steps += [compile_skip(each["type"], read) for each in fields]
        else:
            steps.append(partial(_bytes, size * len(fields)))

    def record(cursors: Cursors) -> None:
        for step in steps:
            step(cursors)

    return record


def _bytes(size: int, cursors: Cursors) -> None:
    cursors.move(size)


def _some(present: int, size: int, cursors: Cursors) -> None:
    cursors.move(1 + size * (cursors.byte() == present))


def _some_number(present: int, read: Read, cursors: Cursors) -> None:
    is_some = cursors.byte() == present
    if (cursors.source.bytes[cursors.at + is_some] < 0x80).all():
        cursors.move(1 + is_some)
    else:
        read(cursors)


def _text(cursors: Cursors) -> None:
    first = cursors.byte()
    if (first < 0x80).all():
        cursors.move(1 + (first >> 1))
    else:
        cursors.move(cursors.length())
