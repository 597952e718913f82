"""Counts the dead letters of a loop by reason, from zero on, and tells the first of each reason.

A counter that appears with its first count has never risen for who watches it, and nobody reads a
topic that nobody was told of.
"""

import logging
from collections.abc import Iterable

from prometheus_client import Counter

from tidemill.schemas.logs import Log
from tidemill.streams.deadletters.writer import REASONS, DeadLetter

logger = logging.getLogger(__name__)

_KEY_CHARS = 200


class DeadLetterReport:
    """The dead letters of one loop in this process."""

    def __init__(self, loop: str, logs: Iterable[Log], counter: Counter) -> None:
        """Count with *counter*, by loop, log and reason."""
        self._loop, self._counter = loop, counter
        self._told: set[tuple[Log, str]] = set()
        for log in logs:
            for reason in REASONS:
                counter.labels(loop, log, reason)

    def take(self, log: Log, dead_letters: Iterable[DeadLetter]) -> None:
        """Count *dead_letters* of *log*, and log the first of each reason."""
        for dead_letter in dead_letters:
            self._counter.labels(self._loop, log, dead_letter.reason).inc()
            if (log, dead_letter.reason) not in self._told:
                self._told.add((log, dead_letter.reason))
                self._tell(dead_letter)

    def _tell(self, dead_letter: DeadLetter) -> None:
        key = (dead_letter.key or b"").decode(errors="backslashreplace")[:_KEY_CHARS]
        logger.warning(
            "a dead letter: %s/%d offset %d cannot be read (%s: %s); more of this reason are only "
            "counted\n  hint: tidemill dead-letters show --loop %s --reason %s",
            *(dead_letter.topic, dead_letter.partition, dead_letter.offset),
            *(dead_letter.reason, dead_letter.detail, self._loop, dead_letter.reason),
            extra={"loop": self._loop, "partition": dead_letter.partition}
            | ({"decision_id": key} if key else {}),
        )
