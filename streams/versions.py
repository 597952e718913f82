"""Notice that a loop was published in a new version, so that its worker can take that one up.

A worker that went on with the old one would leave new features out, and take new kinds of feedback
for poison. `NewVersions` notices by itself, a moment later; `VersionCheck` looks at what is read,
so that not even the first event of a new version is read with the old one.
"""

import logging
import threading
from collections.abc import Callable, Collection

from tidemill.kafka import KafkaConfig, Record, TailThread
from tidemill.schemas import topics
from tidemill.schemas.avro.payloads import Payloads
from tidemill.schemas.events.decoder import Decoded
from tidemill.schemas.loop.definition import Loop

logger = logging.getLogger(__name__)

_MOST_QUESTIONS = 1000


class NewVersions:
    """Whether something was published after *loops* were read; a thread of its own looks.

    With *any_loop*, a loop that is not among them counts too.
    """

    def __init__(self, config: KafkaConfig, loops: Collection[Loop], *, any_loop: bool) -> None:
        """Begin to look.

        Raises:
            BrokerError: there is no topic of loops, or no answer.
        """
        self._known = {loop.loop: loop.version for loop in loops}
        self._any_loop = any_loop
        self._published = threading.Event()
        self._thread = TailThread(
            config,
            {topics.LOOPS: self._take},
            name="new-versions",
            consequence="new versions of loops are not noticed",
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
        for record in records:
            key = (record.key or b"").decode(errors="replace")
            if record.value is not None and self._is_new(key):
                logger.info("%s was published", key)
                self._published.set()

    def _is_new(self, key: str) -> bool:
        name, _, version = key.rpartition("/")
        if name in self._known:
            return version.isdigit() and int(version) > self._known[name]
        return self._any_loop and bool(name)


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
