"""Waiting for something to do: a message on the control topic, or the time to look anyway.

A message is a hint and never the truth; what is missed is found at the next look. It knows no
learner and no lake.
"""

import logging
import threading

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Tail
from tidemill.schemas import topics

log = logging.getLogger(__name__)


class Notifier:
    """Wait for messages about one loop, or for a while if there are none or no broker.

    Args:
        config: where the control topic is.
        loop: whose messages end the waiting.
        stop: ends it too.
    """

    def __init__(self, config: KafkaConfig, loop: str, stop: threading.Event) -> None:
        self._config, self._key, self._stop = config, loop.encode(), stop
        self._tail: Tail | None = None

    def wait(self, timeout_s: float) -> None:
        """Return after a message about the loop, or after *timeout_s*, or soon after the stop."""
        try:
            if self._tail is None:
                self._tail = Tail(self._config, topics.CONTROL, timeout_s=timeout_s)
            for _ in range(max(1, round(timeout_s / 0.2))):
                woken = any(record.key == self._key for record in self._tail.poll(0.2))
                if woken or self._stop.is_set():
                    return
        except BrokerError as error:
            log.info("waiting without the control topic", extra={"reason": error.what})
            self.close()
            self._stop.wait(timeout_s)

    def close(self) -> None:
        """Leave the broker; the next `wait` comes back to it."""
        if self._tail is not None:
            self._tail.close()
            self._tail = None
