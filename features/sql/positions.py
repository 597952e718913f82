"""Positions (`schemas/logs.py`) in SQL, and as text for people.

The column "offset" of feedback has positions. Rows of decisions have plain offsets, which are
positions of stream 0.
"""

import re
from collections.abc import Collection

from tidemill.schemas.logs import OFFSET_BITS, OFFSETS, Log, log_of, offset_of, stream_of
from tidemill.schemas.loop.definition import Loop

KAFKA_OFFSET = "kafka_offset"
"""The column of views with the Kafka offset beside the position, in loops with streams."""


def has_streams(loop: Loop) -> bool:
    """Return whether any kind of feedback has a stream; if none has, positions are offsets."""
    return any(stream_of(log) is not None for log in loop.logs)


def stream_sql(table: str = "") -> str:
    """Return an expression for the number of the stream of a row of *table*.

    >>> stream_sql("f")
    '(f."offset" >> 48)'
    """
    return f"({_column(table)} >> {OFFSET_BITS})"


def offset_sql(table: str = "") -> str:
    """Return an expression for the Kafka offset of a row of *table*.

    >>> offset_sql()
    '("offset" & 281474976710655)'
    """
    return f"({_column(table)} & {OFFSETS - 1})"


def _column(table: str) -> str:
    return f'{table}."offset"' if table else '"offset"'


def shown_position(position: int, logs: Collection[Log]) -> str:
    """Return *position* for people: the offset, after the name of the stream if there is one.

    >>> shown_position(7, ["decisions", "feedback"])
    '7'
    >>> shown_position((18514 << 48) + 7, ["decisions", "feedback", "feedback.orders"])
    'orders 7'
    """
    log = log_of(position, logs)
    stream = None if log is None else stream_of(log)
    return str(offset_of(position)) if stream is None else f"{stream} {offset_of(position)}"


def shown_positions(text: str | None, logs: Collection[Log]) -> str | None:
    """Return *text* with each number, which is a position, replaced by `shown_position`.

    >>> shown_positions("[7, 9]", ["decisions", "feedback"])
    '[7, 9]'
    """
    return text and re.sub(r"\d+", lambda match: shown_position(int(match[0]), logs), text)
