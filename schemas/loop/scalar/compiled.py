"""Terms as functions of one row, for workers: no parser, no DuckDB, no generated code.

The result is that of DuckDB for the same row, bit for bit.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from tidemill.schemas.loop.scalar.operations import OPERATIONS, TermValue
from tidemill.schemas.loop.scalar.terms import COLUMN, CONSTANT, Term

Row = tuple[object, ...]
Function = Callable[[Row], TermValue]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def compile_term(term: Term, places: Mapping[str, int]) -> Function:
    """Return the function of *term*.

    Args:
        term: over columns that are all in *places*.
        places: where a row has each column.
    """
    if term.op == COLUMN:
        return _column(term, places[str(term.value)])
    if term.op == CONSTANT:
        value = term.value
        return lambda _row: value
    parts = [compile_term(part, places) for part in term.parts]
    known = OPERATIONS[term.op]
    meaning = known.meaning
    if not known.is_strict:
        return lambda row: meaning(*[part(row) for part in parts])
    if len(parts) == 1:
        return _of_one(meaning, parts[0])
    return _of_two(meaning, parts[0], parts[1])


def _of_one(meaning: Callable[..., TermValue], part: Function) -> Function:
    def run(row: Row) -> TermValue:
        value = part(row)
        return None if value is None else meaning(value)

    return run


def _of_two(meaning: Callable[..., TermValue], one: Function, two: Function) -> Function:
    def run(row: Row) -> TermValue:
        left, right = one(row), two(row)
        return None if left is None or right is None else meaning(left, right)

    return run


def _column(term: Term, place: int) -> Function:
    match term.kind:
        case "number":

            def number(row: Row) -> TermValue:
                value = row[place]
                return None if value is None else float(value)  # type: ignore[arg-type]  # a number

            return number
        case "time":

            def time(row: Row) -> TermValue:
                value = row[place]
                if isinstance(value, datetime):
                    return (value - _EPOCH) // _MICROSECOND
                return value  # type: ignore[return-value]  # None

            return time
    return lambda row: row[place]  # type: ignore[return-value]  # of the kind of the column
