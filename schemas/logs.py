"""The logs that one join reads: their names, their topics, and the positions of their records.

A **log** is a name: ``decisions``, ``feedback``, or ``feedback.<stream>`` for kinds of feedback
that say `stream`. Each has one topic. A **position** is one int64 for a record of feedback within its
partition, whichever log it lies in: the number of its stream in the upper 16 bits, its Kafka
offset in the lower 48. The number of the plain ``feedback`` log is 0, so there a position is the
offset. The number of any other follows from its name and nothing else: it never changes and nobody
has to declare it.
"""

from collections.abc import Iterable
from zlib import crc32

from tidemill.schemas import topics

Log = str
"""``decisions``, ``feedback`` or ``feedback.<stream>``."""

DECISIONS: Log = "decisions"
FEEDBACK: Log = "feedback"

OFFSET_BITS = 48
"""How many bits of a position are the offset: 280 million million records a partition."""
OFFSETS = 1 << OFFSET_BITS
"""Positions of one log are this far apart; ``position & (OFFSETS - 1)`` is the offset."""
STREAMS = 1 << 15
"""Stream numbers are below this, so that the sign of a position stays plus."""

RESERVED_STREAMS = frozenset({"rekeyed"})
"""Streams whose topic would be one of tidemill's own."""


def feedback_log(stream: str | None) -> Log:
    """Return the log of kinds of feedback that say *stream*; None for those that say none."""
    return FEEDBACK if stream is None else f"{FEEDBACK}.{stream}"


def stream_of(log: Log) -> str | None:
    """Return the stream that *log* is the log of; None for ``decisions`` and ``feedback``."""
    return log.removeprefix(f"{FEEDBACK}.") if log.startswith(f"{FEEDBACK}.") else None


def is_feedback(log: Log) -> bool:
    """Return whether the events of *log* are feedback."""
    return log != DECISIONS


def topic_of(loop: str, log: Log) -> str:
    """Return the topic that the events of *log* of the loop named *loop* are produced to."""
    return topics.feedback(loop, stream_of(log)) if is_feedback(log) else topics.decisions(loop)


def number_of(log: Log) -> int:
    """Return the number of the stream of *log*: 0 without one, else from 1 to 32767.

    >>> number_of("feedback"), number_of("feedback.orders")
    (0, 18514)
    """
    stream = stream_of(log)
    return 0 if stream is None else crc32(stream.encode()) % (STREAMS - 1) + 1


def first_position(log: Log) -> int:
    """Return the position of offset 0 of *log*: add offsets to it, of a whole column too."""
    return number_of(log) << OFFSET_BITS


def position_of(log: Log, offset: int) -> int:
    """Return the position of the record at *offset* of *log*.

    Raises:
        ValueError: no offset of Kafka is so large, or it is negative.

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
    """Return which of *logs* *position* lies in; ``decisions`` have none, None if it is none of them.

    >>> log_of(position_of("feedback.orders", 7), ("decisions", "feedback", "feedback.orders"))
    'feedback.orders'
    """
    number = position >> OFFSET_BITS
    return next((log for log in logs if is_feedback(log) and number_of(log) == number), None)
