"""A supervised thread over the tails of topics: it reports its end, and never ends silently."""

import logging
import threading
from collections.abc import Callable, Mapping

from tidemill.errors import BrokerError
from tidemill.kafka.config import ANSWER_S, KafkaConfig
from tidemill.kafka.outage import broker_errors
from tidemill.kafka.tail import Record, Tail

logger = logging.getLogger(__name__)

OnRecords = Callable[[list[Record]], object]

_ROUND_S = 0.2  # the longest round over all topics in which nothing arrives
_LOOKUP_S = 3.0  # for the topics to be found again after an error
_FIRST_BACKOFF_S = 0.25
_LAST_BACKOFF_S = 1.0  # a broker that returns is read again within about a second


class TailThread:
    """Reads all records of some topics from their beginnings in a thread of its own.

    There is one rule for errors:

    - A `BrokerError` is logged once for each outage and kept in `error`. After a pause the thread
      opens the topics again and reads them from their beginnings, so callbacks must tolerate
      records that they have had before.
    - Any other error, say one of a callback, is logged with its traceback and kept in `error`. It
      ends the thread, and `check` raises it to the owner. If *on_failure*
      returns True, the thread goes on as after a broker error instead.

    Args:
        config: where the topics are.
        handlers: what takes the records of each topic; topics are polled in this order.
        name: of the thread, for the log.
        consequence: what an outage means, for the log: "models cannot be read".
        on_rewind: called before the topics are read from their beginnings.
        on_caught_up: called after each round, a fifth of a second at most, from when all topics
            were read to the end they had when they were opened.
        on_failure: asked after an error that is not the broker's; True to read again.
    """

    def __init__(
        self,
        config: KafkaConfig,
        handlers: Mapping[str, OnRecords],
        *,
        name: str,
        consequence: str,
        on_rewind: Callable[[], object] = lambda: None,
        on_caught_up: Callable[[], object] = lambda: None,
        on_failure: Callable[[Exception], bool] = lambda _error: False,
    ) -> None:
        self.error: Exception | None = None
        self._config = config
        self._handlers = dict(handlers)
        self._consequence = consequence
        self._on_rewind = on_rewind
        self._on_caught_up = on_caught_up
        self._on_failure = on_failure
        self._tails: dict[str, Tail] = {}
        self._backoff_s = _FIRST_BACKOFF_S
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def open(self, timeout_s: float = ANSWER_S) -> None:
        """Find the topics; call before `start` where a missing topic is the caller's error.

        Raises:
            BrokerError: there is no such topic, or no answer in *timeout_s*.
        """
        try:
            for topic in self._handlers:
                self._tails[topic] = Tail(self._config, topic, timeout_s=timeout_s)
        except Exception:
            self._leave()
            raise

    def start(self) -> None:
        """Begin to read; return at once, whether there is a broker or not."""
        self._thread.start()

    def check(self) -> None:
        """Do nothing unless the thread has ended by an error.

        Raises:
            RuntimeError: it has; the error is the cause.
        """
        if self._thread.ident is None or self._thread.is_alive() or self._stopped.is_set():
            return
        raise RuntimeError(f"the thread {self._thread.name} has ended") from self.error

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop reading; wait at most *timeout_s* for a callback that is at work."""
        self._stopped.set()
        if self._thread.ident is None:
            self._leave()
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            logger.warning(
                "the thread %s has not stopped in %g s and is left behind",
                self._thread.name,
                timeout_s,
            )

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._read()
            except BrokerError as error:
                if not isinstance(self.error, BrokerError):
                    logger.warning("%s: %s", self._consequence, error)
                self.error = error
            except Exception as error:  # the outermost loop of this thread: its owner decides
                logger.exception("the thread %s failed", self._thread.name)
                self.error = error
                if not self._on_failure(error):
                    return
            self._stopped.wait(self._backoff_s)
            self._backoff_s = min(2 * self._backoff_s, _LAST_BACKOFF_S)

    def _read(self) -> None:
        """Read until the stop or an error; leave the broker in any case."""
        if not self._tails:
            self.open(_LOOKUP_S)
        try:
            self._on_rewind()
            while not self._stopped.is_set():
                for topic, tail in self._tails.items():
                    self._poll(topic, tail)
                if all(tail.caught_up for tail in self._tails.values()):
                    self._on_caught_up()
                self.error = None
                self._backoff_s = _FIRST_BACKOFF_S
        finally:
            self._leave()

    def _poll(self, topic: str, tail: Tail) -> None:
        with broker_errors(self._config, f"topic {topic} could not be read"):
            records = tail.poll(_ROUND_S / len(self._tails))
        if records:
            self._handlers[topic](records)

    def _leave(self) -> None:
        for tail in self._tails.values():
            tail.close()
        self._tails = {}
