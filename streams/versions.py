"""Notice that a loop was published in a new version, so that its worker can take that one up.

A worker that went on with the old one would leave new features out, and take new kinds of feedback
for poison. `NewVersions` notices by itself, a moment later; `VersionCheck` looks at what is read,
so that not even the first event of a new version is read with the old one.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

from tidemill.kafka import BadRecords, CompactedLog, KafkaConfig, Record, TailThread
from tidemill.schemas import topics
from tidemill.schemas.avro.payloads import Payloads
from tidemill.schemas.events.decoder import Decoded
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import Published, check_unchanged, parse_loop

logger = logging.getLogger(__name__)

_MOST_QUESTIONS = 1000


class NewVersions:
    """Whether the published loops have changed since *examined*; a thread of its own looks.

    Only a definition counts that can be read, and that is still there once the topic is read to its
    end: a record that defines no loop, or one that was withdrawn, is nothing new. The versions that
    *running* names, and older ones, are not new either.

    Args:
        config: where the topic is.
        examined: the loops as the worker has examined them.
        running: the version it runs of each loop.
        wanted: the loops to look at; empty for all.
        bad: gets the records that define no loop.
        reexamine: called every *every_s*; True if a loop that was refused can be run by now.
    """

    def __init__(
        self,
        config: KafkaConfig,
        *,
        examined: Published,
        running: Mapping[str, int],
        wanted: Collection[str],
        bad: BadRecords,
        reexamine: Callable[[], bool] = lambda: False,
        every_s: float = 30.0,
    ) -> None:
        """Begin to look.

        Raises:
            BrokerError: there is no topic of loops, or no answer.
        """
        self._examined = {key: loop.digest for key, loop in examined.items()}
        self._running, self._wanted = dict(running), frozenset(wanted)
        self._bad = bad
        self._reexamine, self._every_s = reexamine, every_s
        self._due_s = time.monotonic() + every_s
        self._log = CompactedLog(parse_loop, check_unchanged)
        self._published = threading.Event()
        self._thread = TailThread(
            config,
            {topics.LOOPS: self._take},
            name="new-versions",
            consequence="new versions of loops are not noticed",
            on_caught_up=self._look,
        )
        self._thread.open()
        self._thread.start()

    def published(self) -> bool:
        """Return whether there is something new.

        Raises:
            RuntimeError: the thread has ended by an error, so a new version would go unnoticed.
        """
        self._thread.check()
        return self._published.is_set()

    def close(self) -> None:
        """Stop looking."""
        self._thread.close()

    def _take(self, records: list[Record]) -> None:
        self._log.take(records)
        self._bad.report(topics.LOOPS, self._log.bad)

    def _look(self) -> None:
        if self._published.is_set():
            return
        new = [loop for loop in self._log.values if self._is_new(loop)]
        for loop in new:
            logger.info("version %d of %s was published", loop.version, loop.loop)
        if new or self._is_mended():
            self._published.set()

    def _is_new(self, loop: Loop) -> bool:
        if self._wanted and loop.loop not in self._wanted:
            return False
        is_later = loop.version > self._running.get(loop.loop, 0)
        return is_later and self._examined.get((loop.loop, loop.version)) != loop.digest

    def _is_mended(self) -> bool:
        if time.monotonic() < self._due_s:
            return False
        self._due_s = time.monotonic() + self._every_s
        return self._reexamine()


class VersionCheck:
    """Whether a batch holds events of a version that *loop* is older than.

    What looks newer may be a mistake of a producer: who published what is asked once for each
    version and each schema that raise the question, and for a thousand of them at most.
    """

    def __init__(self, loop: Loop, newest: Callable[[], int]) -> None:
        """Ask *newest* for the newest version that is published."""
        self._version = loop.version
        self._newest = newest
        self._asked: set[int | bytes] = set()

    def is_newer(self, decoded: Decoded, values: Payloads) -> bool:
        """Return whether this batch is for a worker with a newer version of the loop.

        Raises:
            BrokerError: there is a question, and no answer.
        """
        signs: set[int | bytes] = {
            values.prefix(bad.row)
            for bad in decoded.poison
            if bad.reason in ("wrong-type", "incompatible-schema")
        }
        if "loop_version" in decoded.frame and decoded.frame.height:
            latest = decoded.frame["loop_version"].max()
            if isinstance(latest, int) and latest > self._version:
                signs.add(latest)
        if not signs - self._asked or len(self._asked) > _MOST_QUESTIONS:
            return False
        self._asked |= signs
        return self._newest() > self._version
