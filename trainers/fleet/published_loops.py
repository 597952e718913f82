"""What the shared topics say to a process that trains many loops: loops, commits, heartbeats."""

import threading
from collections.abc import Callable

from tidemill.kafka import BadRecords, CompactedLog, KafkaConfig, Record, TailThread
from tidemill.schemas import topics
from tidemill.schemas.control import MOST_MESSAGES, ControlMessage, parse_control
from tidemill.schemas.published import LoopTopic, Published, check_unchanged, parse_loop


class PublishedLoops:
    """Follows the topic of loops and the control topic in one thread.

    Args:
        config: where the topics are.
        on_loops: called when other loops are published than before; also while some are read.
        on_message: called with each message of the control topic, also with old ones.
        bad: gets the records that are no loop or no message; they are passed over.
    """

    def __init__(
        self,
        config: KafkaConfig,
        on_loops: Callable[[], object],
        on_message: Callable[[ControlMessage], object],
        bad: BadRecords,
    ) -> None:
        self._on_loops, self._on_message, self._bad = on_loops, on_message, bad
        self._lock = threading.Lock()
        self._loops = CompactedLog(parse_loop, check_unchanged)
        self._published: Published = {}
        self._messages = CompactedLog(parse_control, most=MOST_MESSAGES)
        self._thread = TailThread(
            config,
            {topics.LOOPS: self._take_loops, topics.CONTROL: self._take_messages},
            name="published-loops",
            consequence="no new loops and no messages about commits",
        )

    @property
    def published(self) -> Published:
        """Every version of every loop that is published now."""
        with self._lock:
            return self._published

    def start(self) -> None:
        """Begin to read, whether there is a broker or not."""
        self._thread.start()

    def check(self) -> None:
        """Raise the error that has ended the thread, if one has; see `TailThread.check`."""
        self._thread.check()

    def close(self) -> None:
        """Stop reading."""
        self._thread.close()

    def _take_loops(self, records: list[Record]) -> None:
        self._loops.take(records)
        self._bad.report(topics.LOOPS, self._loops.bad)
        with self._lock:
            self._published = LoopTopic.of(self._loops).loops
        self._on_loops()

    def _take_messages(self, records: list[Record]) -> None:
        for message in self._messages.take(records):
            self._on_message(message)
        self._bad.report(topics.CONTROL, self._messages.bad)
