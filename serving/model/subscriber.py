"""The thread that reads the loop topic and the model topic for a worker, from their beginnings on.

Delivery: at least once. A worker keeps nothing on disk; each start reads both topics again. While
Kafka is away the thread waits for it and what is installed goes on deciding.
"""

import logging
import threading
from contextlib import closing

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Record, Tail
from tidemill.schemas import topics
from tidemill.serving.model.follower import Follower, KeyValue

log = logging.getLogger(__name__)

_POLL_S = 0.1
_AGAIN_S = 1.0
_LOOKUP_S = 3.0  # of the topics
_CLOSE_S = 5.0


class Subscriber:
    """Follows the two topics of *config* in a thread and feeds *follower*.

    Attributes:
        ready: set once both topics have been read to the end they had at the start.
        trouble: what keeps it from reading, or None.
    """

    def __init__(self, config: KafkaConfig, follower: Follower) -> None:
        self.ready = threading.Event()
        self.trouble: str | None = None
        self._config = config
        self._follower = follower
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="subscriber", daemon=True)

    def start(self) -> None:
        """Begin to read; return at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading; a model that is on trial just now is not waited for."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except BrokerError as error:
                if self.trouble is None:
                    log.warning("models cannot be read: %s", error)
                self.trouble = error.what
            except Exception as error:  # the outermost loop of this thread: the worker goes on
                log.exception("the subscriber failed and starts again")
                self.trouble = f"the subscriber failed: {error!r}"
            self._stopped.wait(_AGAIN_S)

    def _follow(self) -> None:
        with (
            closing(Tail(self._config, topics.LOOPS, timeout_s=_LOOKUP_S)) as loops,
            closing(Tail(self._config, topics.MODELS, timeout_s=_LOOKUP_S)) as models,
        ):
            self.trouble = None
            self._follower.rewind()
            while not self._stopped.is_set():
                self._follower.take_loops(_pairs(loops.poll(_POLL_S)))
                self._follower.take_models(_pairs(models.poll(_POLL_S)))
                if loops.caught_up and models.caught_up:
                    self._follower.settle()
                    self.ready.set()


def _pairs(records: list[Record]) -> list[KeyValue]:
    return [(record.key, record.value) for record in records]
