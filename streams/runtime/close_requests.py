"""Requests to end the logs of a loop, read from the control topic: `tidemill close LOOP`.

A finite replay has no next event that would move its last windows on. Whoever replays says up to
which decision the logs have ended; every worker of the loop hears it, now or when it starts.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Protocol

from tidemill.errors import RequestError
from tidemill.kafka import KafkaConfig, Record, TailThread, write_all
from tidemill.schemas import topics

logger = logging.getLogger(__name__)

_KEY = "close/"


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
        self._until: dict[str, datetime] = {}
        self._thread = TailThread(
            config,
            {topics.CONTROL: self._take},
            name="close-requests",
            consequence="requests to close are not heard",
        )
        self._thread.open()
        self._thread.start()

    def wanted(self, loop_name: str) -> datetime | None:
        """Return up to which decision the logs of a loop have ended, if anyone said so.

        Raises:
            RuntimeError: the thread has ended by an error, so requests would go unheard.
        """
        self._thread.check()
        return self._until.get(loop_name)

    def close(self) -> None:
        """Stop reading."""
        self._thread.close()

    def _take(self, records: list[Record]) -> None:
        for record in records:
            key = (record.key or b"").decode(errors="replace")
            if key.startswith(_KEY):
                self._hear(key.removeprefix(_KEY), record.value)

    def _hear(self, loop_name: str, value: bytes | None) -> None:
        try:
            until = datetime.fromisoformat(json.loads(value or b"{}")["until"])
        except (ValueError, KeyError, TypeError):
            logger.warning("a request to close %s is unreadable: %r", loop_name, value)
            return
        if until.tzinfo is not None:
            self._until[loop_name] = max(until, self._until.get(loop_name, until))
