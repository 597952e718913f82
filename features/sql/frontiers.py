"""Progress numbers of `examples` in SQL: how far decisions are closed, and compared again.

`lake/progress_keys.py` says what the numbers mean.
"""

from collections.abc import Iterable

from tidemill.features.lake.progress_keys import EXAMINED, FRONTIER
from tidemill.features.lake.tables import Table
from tidemill.schemas.logs import Log, first_position, is_feedback, number_of, position_of
from tidemill.schemas.loop.definition import Loop


def frontiers_sql(examples: Table, loop: Loop, version: int) -> str:
    """Return a query with one row per partition: the time before which decisions are closed."""
    names = [FRONTIER.key(number) for number in range(loop.partitions)]
    numbers = examples.progress(names, version)
    rows = ", ".join(f"({number}, {_number(numbers[name])})" for number, name in enumerate(names))
    return (
        'SELECT "partition"::INTEGER AS "partition", make_timestamptz(micros::BIGINT) AS frontier'
        f' FROM (VALUES {rows}) AS t("partition", micros)'
    )


def examined_sql(examples: Table, loop: Loop, version: int) -> str:
    """Return a query with one row per partition and log of feedback that may correct examples.

    *examined* is the position before which its feedback was compared with closed decisions.
    """
    positions = examined_positions(examples, loop, version)
    rows = ", ".join(
        f"({partition}, {number_of(log)}, {position})"
        for (partition, log), position in positions.items()
    )
    return (
        'SELECT "partition"::INTEGER AS "partition", stream::INTEGER AS stream,'
        " examined::BIGINT AS examined"
        f' FROM (VALUES {rows or "(0, 0, 0)"}) AS t("partition", stream, examined)'
        + ("" if rows else " WHERE false")
    )


def examined_positions(examples: Table, loop: Loop, version: int) -> dict[tuple[int, Log], int]:
    """Return, by partition and log, the position before which feedback may have corrected examples.

    Raises:
        LakeError: the lake cannot be read, or no longer has the version.
    """
    names = {
        EXAMINED.for_log(log).key(partition): (partition, log)
        for log in filter(is_feedback, loop.logs)
        for partition in range(loop.partitions)
    }
    numbers = examples.progress(names, version)
    return {
        (partition, log): position_of(log, offset)
        for name, (partition, log) in names.items()
        if (offset := numbers[name]) is not None
    }


def _number(value: int | None) -> str:
    return "NULL" if value is None else str(value)


def unexamined_positions(loop: Loop, partitions: Iterable[int]) -> dict[tuple[int, Log], int]:
    """Return the result of `examined_positions` if no feedback has corrected an example."""
    logs = [log for log in loop.logs if is_feedback(log)]
    return {(partition, log): first_position(log) for partition in partitions for log in logs}
