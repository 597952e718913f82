"""Which loops a process owns: loops are hashed onto the partitions of a topic without records.

A consumer group shares the partitions among the processes. It only saves work: two processes may
own a loop for a moment, and then the registry refuses the version of one of them.
"""

import logging
import threading
from collections.abc import Callable
from zlib import crc32

from tidemill.errors import BrokerError
from tidemill.kafka import GroupMember, KafkaConfig, Topic, ensure_topics
from tidemill.schemas import topics

logger = logging.getLogger(__name__)

PARTITIONS = 64
"""How many processes can share the loops. It never changes: two processes that hash differently
would both own a loop, or neither."""
_PAUSE_S = 1.0  # after an error


def partition_of(loop: str) -> int:
    """Return the partition onto which *loop* is hashed."""
    return crc32(loop.encode()) % PARTITIONS


class Ownership:
    """Follows in a thread which partitions the group gives to this process.

    While no broker answers, the process goes on with what it has: the registry fences it if the
    group has given that to another one.

    Args:
        config: where the group is.
        group: its name.
        on_change: called with the partitions when others are owned, in that thread.
    """

    def __init__(
        self,
        config: KafkaConfig,
        group: str,
        on_change: Callable[[frozenset[int]], object],
    ) -> None:
        self._config, self._on_change, self._group = config, on_change, group
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trainer-ownership", daemon=True)

    def start(self) -> None:
        """Join the group, as soon as a broker answers."""
        self._thread.start()

    def check(self) -> None:
        """Do nothing unless the thread has ended by an error.

        Raises:
            RuntimeError: it has; the log has the error.
        """
        if not self._thread.is_alive() and not self._stopped.is_set():
            raise RuntimeError("the thread that follows the group of trainers has ended")

    def close(self) -> None:
        """Leave the group, so that others own the loops at once."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except BrokerError as error:
                logger.warning("the trainers cannot be shared out: %s", error)
                self._stopped.wait(_PAUSE_S)
            except Exception:  # the outermost loop of this thread: `check` tells the owner
                logger.exception("the thread that follows the group of trainers failed")
                return

    def _follow(self) -> None:
        ensure_topics(self._config, [Topic(name=topics.TRAINERS, partitions=PARTITIONS)])
        member, owned = GroupMember(self._config, topics.TRAINERS, self._group), frozenset[int]()
        try:
            while not self._stopped.is_set():
                found = member.poll(0.5)
                if found != owned:
                    owned = found
                    self._on_change(owned)
        finally:
            member.close()
