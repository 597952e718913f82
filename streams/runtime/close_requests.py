"""Requests to end the logs of a loop, read from the control topic: `tidemill close LOOP`.

A finite replay has no next event that would move its last windows on. Whoever replays says up to
which decision the logs have ended; every worker of the loop hears it, now or when it starts.
"""

import json
import logging
import threading
from datetime import UTC, datetime
from typing import Protocol

from tidemill.errors import BrokerError, RequestError
from tidemill.kafka import KafkaConfig, Tail, write_all
from tidemill.schemas import topics

log = logging.getLogger(__name__)

_KEY = "close/"
_POLL_S = 0.25


def request_close(config: KafkaConfig, loop_name: str, until: datetime) -> None:
    """Ask all workers of a loop to close every decision up to *until*, that one included.

    They do once they have read all topics of the loop to their end.

    Raises:
        RequestError: *until* has no time zone.
        BrokerError: the request was not acknowledged.
    """
    if until.tzinfo is None:
        raise RequestError(
            f"{until.isoformat()} could be anywhere",
            hint=f"say where: {until.isoformat()}Z for UTC",
        )
    value = json.dumps({"until": until.astimezone(UTC).isoformat()}).encode()
    write_all(config, topics.CONTROL, [(f"{_KEY}{loop_name}".encode(), value)])


class EndOfStreamSource(Protocol):
    """Who says that the logs of a loop have ended."""

    def wanted(self, loop_name: str) -> datetime | None:
        """Return up to which decision the logs of a loop have ended, if anyone said so."""


class CloseRequests:
    """The newest request for each loop; a thread of its own reads the control topic."""

    def __init__(self, config: KafkaConfig) -> None:
        """Begin to read.

        Raises:
            BrokerError: there is no control topic, or no answer.
        """
        self._tail = Tail(config, topics.CONTROL)
        self._until: dict[str, datetime] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="close-requests", daemon=True)
        self._thread.start()

    def wanted(self, loop_name: str) -> datetime | None:
        """Return up to which decision the logs of a loop have ended, if anyone said so."""
        return self._until.get(loop_name)

    def close(self) -> None:
        """Stop reading."""
        self._stopped.set()
        self._thread.join(2 * _POLL_S)

    def _read(self) -> None:
        while not self._stopped.is_set():
            try:
                records = self._tail.poll(_POLL_S)
            except BrokerError as error:
                log.warning("requests to close are not heard: %s", error)
                self._stopped.wait(_POLL_S)
                continue
            for record in records:
                if record.key is not None and record.key.startswith(_KEY.encode()):
                    self._hear(record.key.decode().removeprefix(_KEY), record.value)
        self._tail.close()

    def _hear(self, loop_name: str, value: bytes | None) -> None:
        try:
            until = datetime.fromisoformat(json.loads(value or b"{}")["until"])
        except (ValueError, KeyError, TypeError):
            log.warning("a request to close %s is unreadable: %r", loop_name, value)
            return
        if until.tzinfo is not None:
            self._until[loop_name] = max(until, self._until.get(loop_name, until))
