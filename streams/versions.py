"""Notice that a loop was published in a new version, so that its worker can take that one up.

A worker that went on with the old one would leave new features out, and take new kinds of feedback
for poison. `NewVersions` notices by itself, a moment later; `VersionCheck` looks at what is read,
so that not even the first event of a new version is read with the old one.
"""

import logging
import threading
from collections.abc import Callable, Collection

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Tail
from tidemill.schemas import topics
from tidemill.schemas.avro.payloads import Payloads
from tidemill.schemas.events.decoder import Decoded
from tidemill.schemas.loop.definition import Loop

log = logging.getLogger(__name__)

_POLL_S = 0.2
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
        self._stopped = threading.Event()
        self._tail = Tail(config, topics.LOOPS)
        self._thread = threading.Thread(target=self._look, name="new-versions", daemon=True)
        self._thread.start()

    def published(self) -> bool:
        """Return whether there is something new."""
        return self._published.is_set()

    def close(self) -> None:
        """Stop looking."""
        self._stopped.set()
        self._thread.join(2 * _POLL_S)

    def _look(self) -> None:
        while not self._stopped.is_set():
            try:
                records = self._tail.poll(_POLL_S)
            except BrokerError as error:
                log.warning("new versions of loops are not noticed: %s", error)
                self._stopped.wait(_POLL_S)
                continue
            for record in records:
                if record.value is not None and self._is_new((record.key or b"").decode()):
                    log.info("%s was published", (record.key or b"").decode())
                    self._published.set()
        self._tail.close()

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
