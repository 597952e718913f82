"""How far partitions are closed, and held against late feedback: the numbers on `examples`.

It knows what they are called and where they stand; what they mean is the join's.
"""

from collections.abc import Iterable

from tidemill.features.lake.progress_keys import EXAMINED, FRONTIER
from tidemill.features.lake.tables import Table
from tidemill.schemas.logs import Log, first_position, is_feedback, number_of, position_of
from tidemill.schemas.loop.definition import Loop


def frontiers_sql(examples: Table, loop: Loop, version: int) -> str:
    """Return a query of one row a partition: up to which time its decisions are closed."""
    names = [FRONTIER.key(number) for number in range(loop.partitions)]
    found = examples.progress(names, version)
    rows = ", ".join(f"({number}, {_number(found[name])})" for number, name in enumerate(names))
    return (
        'SELECT "partition"::INTEGER AS "partition", make_timestamptz(micros::BIGINT) AS frontier'
        f' FROM (VALUES {rows}) AS t("partition", micros)'
    )


def examined_sql(examples: Table, loop: Loop, version: int) -> str:
    """Return a query of one row a log of feedback that was held against closed decisions.

    *examined* is the place up to which its feedback may have corrected what is closed.
    """
    found = examined_positions(examples, loop, version)
    rows = ", ".join(
        f"({partition}, {number_of(log)}, {place})" for (partition, log), place in found.items()
    )
    return (
        'SELECT "partition"::INTEGER AS "partition", stream::INTEGER AS stream,'
        " examined::BIGINT AS examined"
        f' FROM (VALUES {rows or "(0, 0, 0)"}) AS t("partition", stream, examined)'
        + ("" if rows else " WHERE false")
    )


def examined_positions(examples: Table, loop: Loop, version: int) -> dict[tuple[int, Log], int]:
    """Return up to which place feedback of each partition and log may have corrected examples.

    Raises:
        LakeError: the lake cannot be read, or no longer has the version.
    """
    names = {
        EXAMINED.for_log(log).key(partition): (partition, log)
        for log in filter(is_feedback, loop.logs)
        for partition in range(loop.partitions)
    }
    found = examples.progress(names, version)
    return {
        (partition, log): position_of(log, offset)
        for name, (partition, log) in names.items()
        if (offset := found[name]) is not None
    }


def _number(value: int | None) -> str:
    return "NULL" if value is None else str(value)


def unexamined_positions(loop: Loop, partitions: Iterable[int]) -> dict[tuple[int, Log], int]:
    """Return as `examined_positions` that no feedback has corrected anything."""
    logs = [log for log in loop.logs if is_feedback(log)]
    return {(partition, log): first_position(log) for partition in partitions for log in logs}
