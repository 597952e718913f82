"""The workload of all benchmarks: one loop of sixteen features, and its events in log order."""

import heapq
import random
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
from confluent_kafka.admin import AdminClient

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Writer
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import DecisionEncoder, FeedbackEncoder
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import publish_loop
from tidemill.schemas.registry.kafka import KafkaSchemaStore

START = datetime(2025, 3, 1, tzinfo=UTC)
EVERY = timedelta(milliseconds=1)  # so some 65,000 decisions wait for their window at any time
WITHIN = timedelta(seconds=60)
GRACE = timedelta(seconds=5)
FLOATS = [f"f{number}" for number in range(11)]
COUNTRIES = [f"country-{number}" for number in range(50)]
DEVICES = ["phone", "tablet", "desktop", "tv", "watch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A loop whose topics hold the workload."""

    loop: Loop
    decisions: int
    clicks: int

    @property
    def events(self) -> int:
        """How many events there are, the last ones that only close windows left out."""
        return self.decisions + self.clicks


def fill(kafka: KafkaConfig, name: str, decisions: int) -> Filled:
    """Publish the loop under a new name that starts with *name*, and write its events."""
    bench = loop(f"bench-{name}-{uuid.uuid4().hex[:8]}")
    return Filled(loop=bench, decisions=decisions, clicks=produce(kafka, bench, decisions))


def empty(kafka: KafkaConfig, filled: Filled) -> None:
    """Delete the topics of *filled*, to free the disk."""
    names = [topics.decisions(filled.loop.loop), topics.feedback(filled.loop.loop)]
    admin = AdminClient(kafka.client())  # a reference, or it ends before its answers arrive
    for deleted in admin.delete_topics(names).values():
        deleted.result()


def loop(
    name: str, *, within: timedelta = WITHIN, grace: timedelta = GRACE, partitions: int = 4
) -> Loop:
    """Return the loop under the name *name*: every second decision gets a click in its window."""
    return Loop.model_validate(
        {
            "loop": name,
            "decision": {"type": "bool", "default": False},
            "features": {
                **dict.fromkeys(FLOATS, "float"),
                "visits": "int",
                "hour": "int",
                "country": "category",
                "device": "category",
                "returning": "bool",
            },
            "feedback": {"click": {"within": _seconds(within), "values": {"amount": "float"}}},
            "label": {"sql": "count(*) > 0", "type": "bool", "missing": "negative"},
            "grace": _seconds(grace),
            "policy": {"kind": "threshold", "threshold": 0.5},
            "partitions": partitions,
        }
    )


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():g}s"


def features(number: int, chance: random.Random) -> dict[str, object]:
    """Return the features of decision *number*."""
    return {
        **{name: chance.random() for name in FLOATS},
        "visits": number % 97,
        "hour": number // 3600 % 24,
        "country": COUNTRIES[number % 50],
        "device": DEVICES[number % 5],
        "returning": number % 3 == 0,
    }


def decision(number: int, at: datetime, chance: random.Random) -> dict[str, object]:
    """Return decision event *number*."""
    return {
        "id": decision_id(number),
        "at": at,
        "entity": f"user-{number % 9973}",
        "action": False,
        "score": 0.25,
        "propensity": 1.0,
        "source": "model",
        "model_version": "lightgbm-7",
        "policy_version": 1,
        "loop_version": 1,
        "features": features(number, chance),
    }


def decision_id(number: int) -> str:
    """Return the id of decision *number*; its beginning looks random, as in real ids."""
    return f"{number * 2654435761 % 2**32:08x}{number:024x}"


def number_of(decision_id: bytes) -> int:
    """Return which decision has this id."""
    return int(decision_id[8:], 16)


def right_labels(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the labels of these decisions: 1 for those that get a click."""
    return np.remainder(numbers, 2)


Send = Callable[[str, str, bytes, int], None]
"""Takes topic, key, payload and partition; -1 means: by the key."""


def produce(kafka: KafkaConfig, bench: Loop, decisions: int) -> int:
    """Publish *bench*, write its events in the order of their time; return how many clicks.

    Raises:
        BrokerError: some were not acknowledged.
    """
    writer = Writer(kafka, queue_messages=200_000, linger_ms=20)

    def send(topic: str, key: str, value: bytes, partition: int) -> None:
        while not writer.write(topic, key=key.encode(), value=value, partition=partition):
            writer.flush(0.05)

    clicks = write_events(kafka, bench, decisions, send, lambda: writer.flush(60))
    undelivered, failed = writer.flush(60), writer.failed
    writer.close()
    if undelivered or failed:
        raise BrokerError(f"{undelivered + failed} events are not there", hint="try again")
    return clicks


def write_events(
    kafka: KafkaConfig, bench: Loop, decisions: int, send: Send, flush: Callable[[], object]
) -> int:
    """Publish *bench* and *send* its events in the order of their time; return how many clicks.

    The last record of every partition is ten minutes later, so that all windows before it close. It
    is sent after a *flush*: who goes by the broker's times must not see it before the others.
    """
    publish_loop(kafka, bench)
    store = KafkaSchemaStore(kafka)
    encode, encode_feedback = DecisionEncoder(bench, store), FeedbackEncoder(bench, store)
    decided, given = topics.decisions(bench.loop), topics.feedback(bench.loop)
    clicks = 0
    for key, event in _events(decisions):
        if "features" in event:
            send(decided, key, encode.encode(event), -1)
        else:
            send(given, key, encode_feedback.encode("click", event), -1)
            clicks += 1
    flush()
    time.sleep(0.01)
    end = START + EVERY * decisions + timedelta(minutes=10)
    for partition in range(bench.partitions):
        last = decision(decisions + partition, end, random.Random(0))
        send(decided, str(last["id"]), encode.encode(last), partition)
        click = clicked(end, f"last-{partition}", f"none-{partition}")
        value = encode_feedback.encode("click", click)
        send(given, f"none-{partition}", value, partition)
    return clicks


def clicked(at: datetime, click_id: str, decision_id: str) -> dict[str, object]:
    """Return a feedback event of the kind `click`."""
    return {"at": at, "id": click_id, "decision_id": decision_id, "values": {"amount": 9.5}}


def _events(decisions: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield decisions and clicks, each with its decision id, as they happen."""
    chance = random.Random(7)
    due: list[tuple[datetime, int, str]] = []
    for number in range(decisions):
        at = START + EVERY * number
        while due and due[0][0] <= at:
            yield _due(*heapq.heappop(due))
        event = decision(number, at, chance)
        if number % 2:
            heapq.heappush(due, (at + WITHIN * chance.random(), number, str(event["id"])))
        yield str(event["id"]), event
    while due:
        yield _due(*heapq.heappop(due))


def _due(at: datetime, number: int, decision_id: str) -> tuple[str, dict[str, object]]:
    return decision_id, clicked(at, f"click-{number}", decision_id)
