"""Reads the loop topic and the model topic for a worker, from their beginnings on.

Delivery: at least once. A worker keeps nothing on disk; each start reads both topics again. While
Kafka is away the installed loops and models go on deciding.
"""

import logging
import threading

from tidemill.errors import BrokerError, ModelError
from tidemill.kafka import BadRecords, CompactedLog, KafkaConfig, Record, TailThread
from tidemill.schemas import topics
from tidemill.schemas.models.manifest import check_key
from tidemill.schemas.published import parse_loop
from tidemill.schemas.rules.rule_record import loop_of_key
from tidemill.serving.model.follower import Follower

logger = logging.getLogger(__name__)


class Subscriber:
    """Follows the two topics of *config* in a thread and feeds *follower*.

    Without *config* there is nothing to follow, and it is ready at once.

    Attributes:
        ready: set once both topics have been read to the end they had at the start.
        bad: the records that were passed over.
    """

    def __init__(self, config: KafkaConfig | None, follower: Follower) -> None:
        self.ready = threading.Event()
        self.bad = BadRecords()
        self._follower = follower
        self._loops = CompactedLog(self._take_loop)
        self._models = CompactedLog(self._take_model)
        self._next: dict[int, int] = {}  # of the model topic, by partition
        self._thread = None if config is None else self._new_thread(config)

    def _new_thread(self, config: KafkaConfig) -> TailThread:
        return TailThread(
            config,
            {topics.LOOPS: self.take_loops, topics.MODELS: self.take_models},
            name="subscriber",
            consequence="models cannot be read",
            on_rewind=self._follower.rewind,
            on_caught_up=self._settle,
            on_failure=self._start_again,
        )

    @property
    def trouble(self) -> str | None:
        """What keeps the subscriber from reading, or None."""
        match self._thread and self._thread.error:
            case None:
                return None
            case BrokerError() as error:
                return error.what
            case error:
                return f"the subscriber failed: {error!r}"

    def start(self) -> None:
        """Begin to read; return at once."""
        if self._thread is None:
            self.ready.set()
        else:
            self._thread.start()

    def close(self) -> None:
        """Stop reading; the trial of a model is not waited for."""
        if self._thread is not None:
            self._thread.close()

    def take_loops(self, records: list[Record]) -> None:
        """Install the loops of *records* of the loop topic that the worker is to serve."""
        self._loops.take(records)
        self.bad.report(topics.LOOPS, self._loops.bad)

    def _take_loop(self, record: Record) -> None:
        loop = parse_loop(record)
        if self._follower.wants(loop.loop):
            self._follower.install(loop)

    def take_models(self, records: list[Record]) -> None:
        """Give *records* of the model topic to the follower."""
        for record in records:
            if record.value is None:
                self._follower.take_model(record.key, None)
            self._models.take([record])
            self._next[record.partition] = max(record.offset + 1, self._next_of(record))
        self.bad.report(topics.MODELS, self._models.bad)

    def _take_model(self, record: Record) -> None:
        """Give *record* to the follower.

        Raises:
            ModelError: it is no part of a model, or of none that may serve.
            ContractError: it has rules that no trusted key has signed.
            LoopError: it should have rules, and has none.
        """
        check_key(record.key)
        if loop_of_key(record.key) is not None:
            self._follower.take_rules(record)
            return
        is_new = record.offset >= self._next_of(record)
        refusal = self._follower.take_model(record.key, record.value, is_new=is_new)
        if refusal is not None:
            raise ModelError(f"{refusal.reason}: {refusal.detail}", hint="publish the model again")

    def _next_of(self, record: Record) -> int:
        return self._next.get(record.partition, 0)

    def _settle(self) -> None:
        self._follower.settle()
        self.ready.set()

    def _start_again(self, _error: Exception) -> bool:
        """Read again after an error of the follower: the worker goes on with what it has."""
        logger.error("the subscriber starts again")
        return True
