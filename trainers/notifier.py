"""Waiting for new examples: a message about the loop on the control topic, or a timeout.

A message is a hint and never the truth: a trainer that misses one finds the commit after the
timeout.
"""

import threading

from tidemill.kafka import BadRecords, CompactedLog, KafkaConfig, Record, TailThread
from tidemill.schemas import topics
from tidemill.schemas.control import MOST_MESSAGES, NewExamples, parse_control

_STOP_LOOK_S = 0.2


class Notifier:
    """Waits for messages about one loop, or for a while if there are none or no broker.

    Args:
        config: where the control topic is.
        loop: whose messages end the waiting.
        stop: ends it too.
        bad: gets the records that are no message; they are passed over.
    """

    def __init__(
        self,
        config: KafkaConfig,
        loop: str,
        stop: threading.Event,
        bad: BadRecords | None = None,
    ) -> None:
        self._loop, self._stop, self._bad = loop, stop, bad or BadRecords()
        self._messages = CompactedLog(parse_control, most=MOST_MESSAGES)
        self._notified = threading.Event()
        self._thread = TailThread(
            config,
            {topics.CONTROL: self._take},
            name="notifier",
            consequence="waiting without the control topic",
        )
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Return after a message about the loop, or after *timeout_s*, or soon after the stop.

        A message that came since the last call counts.

        Raises:
            RuntimeError: the thread that reads has ended by an error.
        """
        self._thread.check()
        for _ in range(max(1, round(timeout_s / _STOP_LOOK_S))):
            if self._notified.wait(min(timeout_s, _STOP_LOOK_S)) or self._stop.is_set():
                break
        self._notified.clear()

    def close(self) -> None:
        """Stop reading."""
        self._thread.close()

    def _take(self, records: list[Record]) -> None:
        for message in self._messages.take(records):
            if isinstance(message, NewExamples) and message.loop == self._loop:
                self._notified.set()
        self._bad.report(topics.CONTROL, self._messages.bad)
