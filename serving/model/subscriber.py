"""Reads the loop topic and the model topic for a worker, from their beginnings on.

Delivery: at least once. A worker keeps nothing on disk; each start reads both topics again. While
Kafka is away the installed loops and models go on deciding.
"""

import logging
import threading

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Record, TailThread
from tidemill.schemas import topics
from tidemill.serving.model.follower import Follower, KeyValue

logger = logging.getLogger(__name__)


class Subscriber:
    """Follows the two topics of *config* in a thread and feeds *follower*.

    Attributes:
        ready: set once both topics have been read to the end they had at the start.
    """

    def __init__(self, config: KafkaConfig, follower: Follower) -> None:
        self.ready = threading.Event()
        self._follower = follower
        self._thread = TailThread(
            config,
            {
                topics.LOOPS: lambda records: follower.take_loops(_pairs(records)),
                topics.MODELS: lambda records: follower.take_models(_pairs(records)),
            },
            name="subscriber",
            consequence="models cannot be read",
            on_rewind=follower.rewind,
            on_caught_up=self._settle,
            on_failure=self._start_again,
        )

    @property
    def trouble(self) -> str | None:
        """What keeps the subscriber from reading, or None."""
        match self._thread.error:
            case None:
                return None
            case BrokerError() as error:
                return error.what
            case error:
                return f"the subscriber failed: {error!r}"

    def start(self) -> None:
        """Begin to read; return at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading; the trial of a model is not waited for."""
        self._thread.close()

    def _settle(self) -> None:
        self._follower.settle()
        self.ready.set()

    def _start_again(self, _error: Exception) -> bool:
        """Read again after an error of the follower: the worker goes on with what it has."""
        logger.error("the subscriber starts again")
        return True


def _pairs(records: list[Record]) -> list[KeyValue]:
    return [(record.key, record.value) for record in records]
