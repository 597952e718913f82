"""Random requests: the same verdict over HTTP and in process, no 500, and memory stays flat."""

import decimal
import http.client
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from random import Random
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from tests.serving.api.test_http import DECISIONS, FEEDBACK
from tests.serving.models import FEATURES
from tests.serving.test_one_reader import Country, Visits, is_accepted

from tidemill import Client
from tidemill.errors import RequestError
from tidemill.serving.client.embedded import EmbeddedTransport
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import Worker

GROWTH_BYTES = 64 * 2**20
NAMES = [*FEATURES, "age", "seen", "tags", "nope", ""]
VALUES: list[object] = [
    *(None, True, False, 0, 1, -1, 2**63 - 1, 2**63, -(2**63) - 1, 2**200, 1.0, -0.0, 1e308),
    *(float("inf"), float("nan"), decimal.Decimal("1e400"), decimal.Decimal("-0.1"), 1j),
    *("", "c01", "a" * 5_000, "\x00", "\ud800", "é\u202e", "2026-01-01T00:00:00Z", "NaN", "{}"),
    *(
        b"PT",
        bytearray(b""),
        Country.PORTUGAL,
        Visits.SOME,
        np.int8(3),
        np.float16(1),
        np.str_("x"),
    ),
    *([], ["a"], ("a", "b"), {"a"}, ["a"] * 1_001, [[]], [None], [b""], {}, {"a": 1}, np.ones(2)),
    *(datetime.now(UTC), datetime(2026, 1, 1), date(2026, 1, 1), timedelta(1), object()),  # noqa: DTZ001
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    datetime(9999, 12, 31, tzinfo=timezone(timedelta(hours=-12))),
]


class Fuzz:
    """Sends random requests both ways."""

    def __init__(self, url: str, worker: Worker, log: MemoryEventLog, seed: int) -> None:
        self.random = Random(seed)
        self.log = log
        self._decider = worker.decider("banner")
        self._over_http = Client(url, budget_ms=60_000)
        self._ways = [
            self._over_http.loop("banner"),
            Client.through(EmbeddedTransport(worker)).loop("banner"),
        ]
        self._netloc = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._netloc, timeout=120)

    def close(self) -> None:
        """Close the connections."""
        self._over_http.close()
        self._connection.close()

    def features(self) -> dict[str, object]:
        """Return features of which a few are odd."""
        made = dict(FEATURES)
        for _ in range(self.random.choice((0, 0, 1, 1, 2))):
            made[self.random.choice(NAMES)] = self.random.choice(VALUES)
        if self.random.random() < 0.05:
            made.pop(self.random.choice(list(made)))
        return made

    def around(self, *names: str) -> dict[str, Any]:
        """Return what goes with a request."""
        chosen = [name for name in names if self.random.random() < 0.2]
        return {name: self.random.choice(VALUES) for name in chosen}

    def calls(self) -> list[Callable[[], object]]:
        """Return one random call, for each way."""
        match self.random.randrange(3):
            case 0:
                features, around = self.features(), self.around("entity", "id", "at")
                return [partial(way.get_decision, features, **around) for way in self._ways]
            case 1:
                items = [
                    {"features": self.features(), **self.around("entity", "id", "at")}
                    for _ in range(self.random.randrange(1, 4))
                ]
                return [partial(way.get_decisions, items) for way in self._ways]
            case _:
                around = self.around("id", "at", "seconds", "page", "nope")
                values = {"seconds": 1.0, "page": "p", **around}
                kind: Any = self.random.choice(["clicked", "clicked", "left", *VALUES])
                name: Any = self.random.choice(["d", "d", "d", *VALUES])
                return [partial(way.log_feedback, name, kind, **values) for way in self._ways]

    def compare(self) -> None:
        """Make one random call both ways; fail if the verdicts or the effects differ."""
        verdicts, effects = [], []
        for call in self.calls():
            before = len(self.log.events)
            verdicts.append(is_accepted(call))
            effects.append(len(self.log.events) - before)
        assert verdicts[0] == verdicts[1]
        assert effects[0] == effects[1]
        assert (effects[0] > 0) == verdicts[0]

    def send_bytes(self) -> None:
        """Send damaged JSON; fail if a worker of the same process judges it otherwise."""
        path = self.random.choice((DECISIONS, FEEDBACK))
        body = bytearray(self._json(path))
        for _ in range(self.random.randrange(4)):
            place = self.random.randrange(len(body))
            match self.random.randrange(3):
                case 0:
                    body[place] = self.random.randrange(256)
                case 1:
                    del body[place : place + self.random.randrange(1, 20)]
                case _:
                    body[place:place] = self.random.choice((b'"', b"\\ud8", b"1e999", b"[", b":"))
            body = body or bytearray(b" ")
        self._connection.request("POST", path, bytes(body))
        answer = self._connection.getresponse()
        said = json.loads(answer.read())
        assert answer.status in (200, 202, 400, 404), said
        reader = self._decider.decisions if path == DECISIONS else self._decider.feedback
        try:
            reader.read(bytes(body))
        except RequestError:
            assert set(said) == {"what", "hint"}
        else:
            assert answer.status < 300

    def _json(self, path: str) -> bytes:
        item: dict[str, object] = {"features": FEATURES, "id": "d", "entity": "u"}
        if path == FEEDBACK:
            item = {"decision_id": "d", "kind": "clicked", "values": {"seconds": 1, "page": "p"}}
        whole = {"batch": [item, item]} if self.random.random() < 0.3 else item
        return json.dumps(whole).encode()


@pytest.fixture
def fuzz(url: str, worker: Worker, log: MemoryEventLog) -> Iterator[Fuzz]:
    """Random requests from a fixed seed."""
    made = Fuzz(url, worker, log, seed=12)
    yield made
    made.close()


def run(fuzz: Fuzz, count: int) -> None:
    """Send *count* requests, half of them as bytes."""
    for number in range(count):
        if number % 2:
            fuzz.send_bytes()
        else:
            fuzz.compare()
        if len(fuzz.log.events) > 10_000:
            fuzz.log.events.clear()


def test_three_hundred_random_requests_are_judged_alike(fuzz: Fuzz) -> None:
    """Whatever a service sends by mistake, both ways say the same about it."""
    run(fuzz, 300)


@pytest.mark.soak
def test_five_thousand_random_requests_leave_the_memory_flat(fuzz: Fuzz) -> None:
    """A server that keeps something of each refused request ends some night."""
    run(fuzz, 1_000)
    fuzz.log.events.clear()
    before = psutil.Process().memory_info().rss
    run(fuzz, 5_000)
    fuzz.log.events.clear()
    assert psutil.Process().memory_info().rss - before < GROWTH_BYTES
