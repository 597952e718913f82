"""The loops of a sample and their events: a function of a seed, which goes on after the sample.

`offers` has two versions, three logs, corrections and every type of feature; `delays` has an
activation, a label that is a number and no correction. Times are event times from `START` on.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tests.streams.rig import PlainProducer

from tidemill.schemas.logs import DECISIONS, topic_of
from tidemill.schemas.loop.definition import Loop

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
STEP = 2.5 * SECOND  # between two decisions
VERSION_2 = START + 500 * SECOND  # events that arrive from here on know version 2
END = START + 900 * SECOND  # events that arrive from here on are not in the sample
DECIDED = 360  # decisions are numbered from 0; those below are made before `END`
NEWEST = 440  # and those below are made after it

OFFERS = Loop.model_validate(
    {
        "loop": "offers",
        "description": "Is this offer shown? A loop of a sample of old data.",
        "decision": {"type": "choice", "actions": ["show", "hide"], "default": "hide"},
        "features": {
            "hour": "int",
            "price": {"type": "float", "nullable": True},
            "page": "category",
            "tags": "categories",
            "member": "bool",
            "seen": {"type": "timestamp", "nullable": True},
        },
        "feedback": {
            "click": {"within": "60s", "early": "2s", "values": {"amount": "float"}},
            "order": {"within": "2m", "stream": "orders", "values": {"total": "float"}},
        },
        "label": {"sql": "max(amount) > 0.5 or max(total) > 10"},
        "grace": "10s",
        "idle_after": "1h",
        "corrections": "3m",
        "policy": {"kind": "threshold", "threshold": 0.5, "above": "show", "below": "hide"},
        "models": {
            "batch": {
                "min_labels": 80,
                "retrain": {"new_labels": 80},
                "rounds": 10,
                "params": {"num_leaves": 5, "min_data_in_leaf": 5},
            },
            "online": {"learning_rate": 0.05, "publish_every": 60},
        },
        "gate": {"min_rows": 10, "confidence": 0.6},
        "partitions": 2,
    }
)


def _second_version() -> Loop:
    tree = OFFERS.model_dump(mode="json")
    tree["version"] = 2
    tree["features"]["region"] = {"type": "category", "nullable": True}
    tree["feedback"]["click"]["values"]["depth"] = {"type": "int", "nullable": True}
    tree["feedback"]["dismissed"] = {"within": "30s"}
    tree["policy"] |= {"version": 2, "threshold": 0.4}
    return Loop.model_validate(tree)


OFFERS_2 = _second_version()

DELAYS = Loop.model_validate(
    {
        "loop": "delays",
        "decision": {"type": "float", "default": 0.0},
        "features": {"distance": "float", "carrier": "category"},
        "feedback": {
            "shown": {"within": "10s"},
            "arrived": {"within": "20s", "values": {"delay": "float"}},
        },
        "label": {"sql": "max(delay)", "type": "float", "missing": "censored"},
        "activation": "shown",
        "grace": "5s",
        "idle_after": "1h",
        "policy": {"kind": "value", "low": -10.0, "high": 200.0},
        "models": {
            "batch": {
                "min_labels": 30,
                "retrain": {"new_labels": 30},
                "rounds": 10,
                "params": {"num_leaves": 4, "min_data_in_leaf": 5},
            },
            "online": {"learner": "linear_regression", "publish_every": 500},
        },
        "gate": {"min_rows": 5, "confidence": 0.6},
        "partitions": 2,
    }
)
DELAYS_STEP = 2 * SECOND
DELAYS_FIRST = 100  # the logs are ended by request behind so many decisions
DELAYS_PAUSE = 100 * SECOND  # then nothing is decided for so long
DELAYS_DECIDED = 125
DELAYS_NEWEST = 145
DELAYS_MIDDLE = START + DELAYS_FIRST * DELAYS_STEP
DELAYS_END = START + DELAYS_DECIDED * DELAYS_STEP + DELAYS_PAUSE
LOOPS = (OFFERS, OFFERS_2, DELAYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One event on its way to Kafka.

    *kind* is the kind of feedback, empty for a decision. An event that is *raw* is sent as these
    bytes, which are no event at all; *old* is written with the schemas of version 1 in any case.
    """

    arrives: datetime
    kind: str
    key: str
    event: Mapping[str, object] | None = None
    raw: bytes | None = None
    old: bool = False


def offers_traffic(numbers: range) -> list[Arrival]:
    """Return all that arrives because of the decisions *numbers*, in order."""
    found = [each for number in numbers for each in _offers_of(number)]
    return sorted(found, key=lambda each: (each.arrives, each.kind, each.key))


def _offers_of(number: int) -> Iterator[Arrival]:
    draw, at, key = random.Random(number), START + number * STEP, f"d{number:03}"
    good = draw.random() < 0.5
    decision = Arrival(arrives=at, kind="", key=key, event=_offer(draw, number, at, good=good))
    yield replace(decision, arrives=at + 60 * SECOND if number % 40 == 13 else at)  # late
    if number % 40 == 7:
        yield replace(decision, arrives=at + 3 * SECOND)  # twice
    if number in _POISON:
        kind, raw = _POISON[number]
        yield Arrival(arrives=at + SECOND, kind=kind, key=key, raw=raw)
    liked = good if draw.random() < 0.95 else not good
    yield from _clicks_of(draw, number, at, liked=liked)
    if draw.random() < 0.3:
        after = draw.uniform(1, 110) * SECOND
        total = draw.uniform(11, 50) if liked else draw.uniform(1, 9)
        yield _feedback("order", key, at + after, {"total": round(total, 2)})


def _offer(draw: random.Random, number: int, at: datetime, *, good: bool) -> dict[str, object]:
    price = round(draw.uniform(1, 20) if good else draw.uniform(20, 60), 2)
    score = round(draw.random(), 4) if at >= VERSION_2 else None
    return {
        "id": f"d{number:03}",
        "at": at,
        "entity": None if number % 4 == 0 else f"user-{number % 17}",
        "action": "show" if (score or 0) >= 0.4 else "hide",
        "score": score,
        "propensity": 1.0,
        "source": "default" if score is None else "model",
        "model_version": None if score is None else "lightgbm-2",
        "policy_version": 1 if score is None else 2,
        "loop_version": 1 if score is None else 2,
        "features": {
            "hour": number % 24,
            "price": None if number % 19 == 0 else price,
            "page": "deal" if good else draw.choice(["home", "search"]),
            "tags": ["new", "red", "süß"][: number % 4],
            "member": number % 3 == 0,
            "seen": None if number % 5 == 0 else at - timedelta(hours=number),
            "region": None if number % 7 == 0 else draw.choice(["north", "south"]),
        },
    }


def _clicks_of(draw: random.Random, number: int, at: datetime, *, liked: bool) -> Iterator[Arrival]:
    key, after = f"d{number:03}", draw.uniform(-1, 45) * SECOND
    amount = round(draw.uniform(0.6, 3.0) if liked else draw.uniform(0.0, 0.4), 3)
    depth = None if number % 3 == 0 else number % 11
    click = _feedback("click", key, at + after, {"amount": amount, "depth": depth})
    if number % 20 == 3:  # after the close of its window: it revises the example
        yield replace(click, arrives=at + 200 * SECOND)
    elif number % 60 == 31:  # even later: nothing follows from it
        yield replace(click, arrives=at + 400 * SECOND)
    elif number % 9:
        yield replace(click, old=number % 10 == 0)
    if number % 15 == 4:
        yield replace(click, arrives=click.arrives + SECOND)  # twice
    if number % 50 == 21:
        yield _feedback("click", f"nobody-{number}", at, {"amount": 1.0, "depth": None})
    if number % 12 == 5 and at > VERSION_2:
        yield _feedback("dismissed", key, at + 4 * SECOND, {})


def _feedback(kind: str, key: str, at: datetime, values: Mapping[str, object]) -> Arrival:
    event = {"id": f"{kind}-{key}", "decision_id": key, "at": at, "values": values}
    return Arrival(arrives=at, kind=kind, key=key, event=event)


_POISON = {
    50: ("", b"not avro at all"),
    120: ("click", b"\xc3\x01" + b"\x07" * 8 + b"a schema that nobody registered"),
    260: ("order", b""),
}
POISONED = len(_POISON)


def delays_traffic(numbers: range) -> list[Arrival]:
    """Return all that arrives because of the decisions *numbers* of `DELAYS`, in order."""
    found = [each for number in numbers for each in _delays_of(number)]
    return sorted(found, key=lambda each: (each.arrives, each.kind, each.key))


def _delays_of(number: int) -> Iterator[Arrival]:
    draw, at, key = random.Random(1_000 + number), START + number * DELAYS_STEP, f"f{number:03}"
    at += DELAYS_PAUSE if number >= DELAYS_FIRST else 0 * SECOND
    distance = round(draw.uniform(10, 1_000), 1)
    event: dict[str, object] = {
        "id": key,
        "at": at,
        "entity": None,
        "action": 0.0,
        "score": None,
        "propensity": None,
        "source": "default",
        "model_version": None,
        "policy_version": 1,
        "loop_version": 1,
        "features": {"distance": distance, "carrier": draw.choice(["AA", "UA"])},
    }
    yield Arrival(arrives=at, kind="", key=key, event=event)
    if number % 10:
        yield _feedback("shown", key, at + 2 * SECOND, {})
    if number % 5:
        delay = round(distance / 10 + draw.gauss(0, 2), 2)
        yield _feedback("arrived", key, at + draw.uniform(3, 19) * SECOND, {"delay": delay})


class Service:
    """Sends events as services do: by the schemas of the version they know.

    Args:
        producers: one for each version of a loop, oldest first.
    """

    def __init__(self, producers: Sequence[PlainProducer]) -> None:
        self._producers = producers

    def send(self, arrivals: Sequence[Arrival]) -> None:
        """Send *arrivals* in their order; return when all of them are acknowledged."""
        last = self._producers[0]
        for each in arrivals:
            is_old = each.old or each.arrives < VERSION_2 or self._is_of_version_1(each)
            producer = self._producers[0 if is_old else -1]
            if producer is not last:
                last.flush()  # the order of two producers is that of their acknowledgements
            producer.send(self._topic(producer.loop, each), each.key, _payload(producer, each))
            last = producer
        last.flush()

    def _is_of_version_1(self, each: Arrival) -> bool:
        return each.event is not None and each.event.get("loop_version") == 1

    def _topic(self, loop: Loop, each: Arrival) -> str:
        return topic_of(loop.loop, loop.feedback[each.kind].log if each.kind else DECISIONS)


def _payload(producer: PlainProducer, each: Arrival) -> bytes:
    return each.raw if each.event is None and each.raw is not None else _written(producer, each)


def _written(producer: PlainProducer, each: Arrival) -> bytes:
    fields = producer.loop.feedback[each.kind].values if each.kind else producer.loop.features
    name = "values" if each.kind else "features"
    event = dict(each.event or {})
    told = event[name]
    assert isinstance(told, Mapping)
    return producer.payload(each.kind, event | {name: {field: told[field] for field in fields}})
