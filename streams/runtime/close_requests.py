"""Requests to end the logs of a loop, read from the control topic: `tidemill close LOOP`.

A finite replay has no next event that would move its last windows on. Whoever replays says up to
which decision the logs have ended; every worker of the loop hears it, now or when it starts.
"""

from datetime import datetime
from typing import Protocol

from tidemill.errors import RequestError
from tidemill.kafka import BadRecords, CompactedLog, KafkaConfig, Record, TailThread, write_all
from tidemill.schemas import topics
from tidemill.schemas.control import MOST_MESSAGES, CloseRequest, parse_control
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.record_signature import signed_headers


def request_close(
    config: KafkaConfig, loop_name: str, until: datetime, signer: SigningKey | None = None
) -> None:
    """Ask all workers of a loop to close every decision up to *until*, that one included.

    They do once they have read all topics of the loop to their end. Workers with trusted keys do
    only if one of those is the key of *signer*.

    Raises:
        RequestError: *until* has no time zone.
        BrokerError: the request was not acknowledged.
    """
    if until.tzinfo is None:
        raise RequestError(
            f"{until.isoformat()} could be anywhere",
            hint=f"say where: {until.isoformat()}Z for UTC",
        )
    key, value = CloseRequest(loop_name, until).record()
    headers = signed_headers(signer, topics.CONTROL, key, value)
    write_all(config, topics.CONTROL, [(key, value)], headers=headers)


class EndOfStreamSource(Protocol):
    """Who says that the logs of a loop have ended."""

    def wanted(self, loop_name: str) -> datetime | None:
        """Return up to which decision the logs of a loop have ended, if anyone said so."""


class CloseRequests:
    """The latest time requested for each loop; a thread of its own reads the control topic.

    Records that are no message, and with *trusted* keys requests that none of them has signed, are
    passed over and reported to *bad*.
    """

    def __init__(
        self,
        config: KafkaConfig,
        bad: BadRecords | None = None,
        trusted: TrustedKeys | None = None,
    ) -> None:
        """Begin to read.

        Raises:
            BrokerError: there is no control topic, or no answer.
        """
        self._bad = bad or BadRecords()
        self._messages = CompactedLog(
            lambda record: parse_control(record, trusted), most=MOST_MESSAGES
        )
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
        for message in self._messages.take(records):
            if isinstance(message, CloseRequest):
                until = self._until.get(message.loop, message.until)
                self._until[message.loop] = max(message.until, until)
        self._bad.report(topics.CONTROL, self._messages.bad)
