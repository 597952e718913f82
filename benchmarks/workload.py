"""The workload of all benchmarks: one loop of sixteen features, and its events in log order."""

import heapq
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Writer
from tidemill.schemas import topics
from tidemill.schemas.events import DecisionEncoder, FeedbackEncoder
from tidemill.schemas.kafkastore import KafkaSchemaStore
from tidemill.schemas.loop import Loop
from tidemill.schemas.loops import publish_loop

START = datetime(2025, 3, 1, tzinfo=UTC)
EVERY = timedelta(milliseconds=1)  # so some 65,000 decisions wait for their window at any time
WITHIN = timedelta(seconds=60)
FLOATS = [f"f{number}" for number in range(11)]
COUNTRIES = [f"country-{number}" for number in range(50)]
DEVICES = ["phone", "tablet", "desktop", "tv", "watch"]


def loop(name: str) -> Loop:
    """Return the loop under the name *name*: every second decision gets a click within 60 s."""
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
            "feedback": {"click": {"within": "60s", "values": {"amount": "float"}}},
            "label": {"sql": "count(*) > 0", "type": "bool", "missing": "negative"},
            "grace": "5s",
            "policy": {"kind": "threshold", "threshold": 0.5},
            "partitions": 4,
        }
    )


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
        "id": f"{number * 2654435761 % 2**32:08x}{number:024x}",
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


def produce(kafka: KafkaConfig, bench: Loop, decisions: int) -> int:
    """Publish *bench*, write its events in the order of their time; return how many clicks.

    The last record of every partition is ten minutes later, so that all windows before it close.

    Raises:
        BrokerError: some were not acknowledged.
    """
    publish_loop(kafka, bench)
    store = KafkaSchemaStore(kafka)
    encode, encode_feedback = DecisionEncoder(bench, store), FeedbackEncoder(bench, store)
    decided, given = topics.decisions(bench.loop), topics.feedback(bench.loop)
    writer = Writer(kafka, queue_messages=200_000, linger_ms=20)

    def send(topic: str, key: str, value: bytes, partition: int = -1) -> None:
        while not writer.write(topic, key=key.encode(), value=value, partition=partition):
            writer.flush(0.05)

    clicks, refused = 0, 0
    for number, event in _events(decisions):
        if event["kind"] == "decision":
            send(decided, str(event["id"]), encode.encode(_without_kind(event)))
        else:
            send(given, str(event["decision_id"]), encode_feedback.encode("click", _click(event)))
            clicks += 1
        refused = number
    end = START + EVERY * decisions + timedelta(minutes=10)
    for partition in range(bench.partitions):
        last = decision(decisions + partition, end, random.Random(0))
        send(decided, str(last["id"]), encode.encode(last), partition)
        click = {"id": f"last-{partition}", "decision_id": f"none-{partition}", "at": end}
        event = {**click, "values": {"amount": 0.0}}
        send(given, f"none-{partition}", encode_feedback.encode("click", event), partition)
    undelivered = writer.flush(60)
    failed = writer.failed
    writer.close()
    if undelivered or failed:
        raise BrokerError(f"{undelivered + failed} events of {refused} are not there", hint="retry")
    return clicks


def _events(decisions: int) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield decisions and clicks as they happen."""
    chance = random.Random(7)
    due: list[tuple[datetime, int, str]] = []
    for number in range(decisions):
        at = START + EVERY * number
        while due and due[0][0] <= at:
            yield number, _clicked(*heapq.heappop(due))
        event = decision(number, at, chance)
        if number % 2:
            heapq.heappush(due, (at + WITHIN * chance.random(), number, str(event["id"])))
        yield number, {"kind": "decision", **event}
    while due:
        yield decisions, _clicked(*heapq.heappop(due))


def _clicked(at: datetime, number: int, decision_id: str) -> dict[str, object]:
    return {"kind": "click", "at": at, "id": f"click-{number}", "decision_id": decision_id}


def _click(event: dict[str, object]) -> dict[str, object]:
    return {**_without_kind(event), "values": {"amount": 9.5}}


def _without_kind(event: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in event.items() if name != "kind"}
