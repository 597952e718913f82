"""The logs that one join reads: their names, their topics, and the positions of their records.

A **log** is a name: ``decisions``, ``feedback``, or ``feedback.<stream>`` for kinds of feedback
with a `stream`. Each log has one topic. A **position** is one int64 that identifies a record of
feedback within its partition, whatever its log: the upper 16 bits are the number of its stream, the
lower 48 its Kafka offset. The number of the plain ``feedback`` log is 0, so its positions are
offsets. The number of any other log is computed from its name, so it never changes and nobody
declares it.
"""

from collections.abc import Iterable
from typing import NewType
from zlib import crc32

from tidemill.schemas import topics

Log = NewType("Log", str)
"""``decisions``, ``feedback`` or ``feedback.<stream>``."""

DECISIONS = Log("decisions")
FEEDBACK = Log("feedback")

OFFSET_BITS = 48
"""How many bits of a position are the offset: enough for 2.8e14 records per partition."""
OFFSETS = 1 << OFFSET_BITS
"""How many positions each log has; ``position & (OFFSETS - 1)`` is the offset."""
STREAMS = 1 << 15
"""Stream numbers are below this, so that no position is negative."""

RESERVED_STREAMS = frozenset({"rekeyed"})
"""Stream names whose topic would be an internal topic of tidemill."""


def feedback_log(stream: str | None) -> Log:
    """Return the log of the kinds of feedback with *stream*; None for those without one."""
    return FEEDBACK if stream is None else Log(f"{FEEDBACK}.{stream}")


def stream_of(log: Log) -> str | None:
    """Return the stream of *log*; None for ``decisions`` and ``feedback``."""
    return log.removeprefix(f"{FEEDBACK}.") if log.startswith(f"{FEEDBACK}.") else None


def is_feedback(log: Log) -> bool:
    """Return whether *log* holds feedback."""
    return log != DECISIONS


def topic_of(loop: str, log: Log) -> str:
    """Return the topic to which the events of *log* are produced, for the loop named *loop*."""
    return topics.feedback(loop, stream_of(log)) if is_feedback(log) else topics.decisions(loop)


def number_of(log: Log) -> int:
    """Return the number of the stream of *log*: 0 without a stream, else 1 to 32767.

    >>> number_of("feedback"), number_of("feedback.orders")
    (0, 18514)
    """
    stream = stream_of(log)
    return 0 if stream is None else crc32(stream.encode()) % (STREAMS - 1) + 1


def first_position(log: Log) -> int:
    """Return the position of offset 0 of *log*, to which offsets can be added, columns too."""
    return number_of(log) << OFFSET_BITS


def position_of(log: Log, offset: int) -> int:
    """Return the position of the record at *offset* of *log*.

    Raises:
        ValueError: *offset* is negative, or larger than any offset of Kafka.

    >>> position_of("feedback", 7)
    7
    """
    if not 0 <= offset < OFFSETS:
        raise ValueError(f"offset {offset} is not from 0 to {OFFSETS - 1}")
    return first_position(log) + offset


def offset_of(position: int) -> int:
    """Return the Kafka offset of *position*.

    >>> offset_of(position_of("feedback.orders", 7))
    7
    """
    return position & (OFFSETS - 1)


def log_of(position: int, logs: Iterable[Log]) -> Log | None:
    """Return the one of *logs*, all of feedback, that *position* lies in; None if none of them.

    >>> log_of(position_of("feedback.orders", 7), ("decisions", "feedback", "feedback.orders"))
    'feedback.orders'
    """
    number = position >> OFFSET_BITS
    return next((log for log in logs if is_feedback(log) and number_of(log) == number), None)
