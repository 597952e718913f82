"""What a ledger leaves out, so that "balanced" is not read as more than it says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import produced_topics


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCounted:
    """What a ledger did not look at, and why; *records* are those that no worker will read."""

    what: str
    why: str
    records: int = 0

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return asdict(self)


KAFKA_NOT_COUNTED = NotCounted(
    what="Kafka", why="KAFKA_BOOTSTRAP_SERVERS is not set, so what is unread is not known"
)


def left_out(loop: Loop, unread: Mapping[str, int]) -> list[NotCounted]:
    """Return what the accounts of *loop* leave out; *unread*: see `BrokerLogs`."""
    found = [
        NotCounted(
            what=topic,
            why=f"no kind of feedback of version {loop.version} comes by that topic",
            records=count,
        )
        for topic, count in sorted(unread.items())
    ]
    if loop.rekey:
        sources = [topic for log, topic in produced_topics(loop).items() if log != DECISIONS]
        why = "its records are counted once they are re-keyed"
        found += [NotCounted(what=topic, why=why) for topic in sources]
    return found
