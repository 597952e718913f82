"""One suite for all clients: requests with items, feedback about one, and answers without a worker.

The same wrong request is refused in the same words over HTTP and in process.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.schemas.loops import minimal, with_items
from tests.serving.client.conftest import OpenClient
from tests.serving.conftest import NOWHERE, Serve
from tests.serving.decision.test_items import BROUGHT, FEATURES, by_price, item

from tidemill import Client
from tidemill.errors import RequestError
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import register
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.client.client import LoopClient
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.policies.choice import LiveModel
from tidemill.serving.worker import ServingWorkerConfig, Worker

CLICK = {"seconds": 1.0, "page": "p"}


def serving(loop: Loop, log: MemoryEventLog) -> Worker:
    """Return a worker of *loop* that nobody has started."""
    config = ServingWorkerConfig(kafka=NOWHERE, name="w-1", definitions=(loop,))
    return Worker(config, event_log=log)


@pytest.fixture
def worker(log: MemoryEventLog) -> Worker:
    """A worker whose loop chooses one of the items of a request."""
    return serving(with_items(), log)


@pytest.fixture
def loop(client: Client) -> LoopClient:
    """The calls of each client."""
    return client.loop("banner")


def logged(loop: Loop, log: MemoryEventLog, kind: Log = DECISIONS) -> list[dict[str, object]]:
    """Return the events as a streams worker reads them."""
    store = MemorySchemaStore()
    register(loop, store)
    events = [event.value for event in log.events if event.topic == f"{loop.loop}.{kind}"]
    return EventDecoder(loop, kind, store).decode(events).frame.to_dicts()


def test_items_are_asked_about_alone_and_in_a_batch(
    loop: LoopClient, worker: Worker, log: MemoryEventLog
) -> None:
    """A page of news has its articles with each request, and asks for three pages at once."""
    assert loop.get_decision(FEATURES, items=BROUGHT).action == "a"
    worker.decider("banner").model = LiveModel("m-1", by_price)
    asked = [
        {"features": FEATURES, "items": BROUGHT},
        {"features": FEATURES, "items": BROUGHT[::2]},
        {"features": FEATURES, "items": tuple(BROUGHT), "id": "d-3"},
    ]
    results = loop.get_decisions(asked)
    assert [one.action for one in results] == ["b", "c", "b"]
    assert [one.score for one in results] == [9.0, 5.0, 9.0]
    assert results[2].id == "d-3"
    rows = logged(with_items(), log)
    assert [len(list(row["items"])) for row in rows] == [3, 3, 2, 3]  # type: ignore[call-overload]


def test_feedback_names_an_item(loop: LoopClient, log: MemoryEventLog) -> None:
    """Without a name it counts for all that were shown."""
    loop.log_feedback("d-1", "clicked", item="b", **CLICK)  # type: ignore[arg-type]
    loop.log_feedback("d-1", "clicked", **CLICK)  # type: ignore[arg-type]
    assert [row["item"] for row in logged(with_items(), log, FEEDBACK)] == ["b", None]


def test_a_baseline_is_among_the_items(loop: LoopClient) -> None:
    """It is the default of its decision."""
    assert loop.get_decision(FEATURES, items=BROUGHT, baseline="c").action == "c"
    with pytest.raises(RequestError, match="'z' is not among the items"):
        loop.get_decision(FEATURES, items=BROUGHT, baseline="z")


def test_ids_and_numbers_of_numpy_are_sent(loop: LoopClient) -> None:
    """Items come out of data frames."""
    sent = {"id": np.str_("a"), "features": {"price": np.float32(2), "topic": np.str_("news")}}
    result = loop.get_decision(FEATURES, items=[sent])
    assert (result.action, type(result.action)) == ("a", str)


@pytest.mark.parametrize(
    ("items", "what"),
    [
        (None, "items are missing"),
        ("ab", "items are 'ab', not a list"),
        ({"a": 1}, "not a list"),
        ([], "brings 0 items"),
        ([item(str(number)) for number in range(51)], "brings 51 items"),
        ([item("a"), item("b"), item("a")], r"items\[2\] has the id 'a' of items\[0\]"),
        ([item("a"), {"id": "b"}], r"items\[1\]: field 'features' is missing"),
        ([item("a"), {"id": "b", "features": None}], r"items\[1\]"),
        ([item("a"), {"features": {}}], r"items\[1\]"),
        ([item("a"), 7], r"items\[1\]"),
        ([item("a"), item("")], r"items\[1\]"),
        ([item("a"), item("x" * 201)], r"items\[1\]"),
        ([item("a"), {**item("b"), "id": 3}], r"items\[1\]"),
        ([item("a"), item("b\n")], r"items\[1\] has the id .*, which cannot be printed"),
        ([item("a"), item("b", colour=1)], r"items\[1\].* 'colour' is unknown"),
        ([item("a"), {**item("b"), "more": 1}], r"items\[1\].* 'more' is unknown"),
        ([item("a"), {"id": "b", "features": {"price": 1.0}}], r"items\[1\].*'topic' is missing"),
        ([item("a"), item("b", price="1")], r"items\[1\].*price"),
        ([item("a"), item("b", price=math.nan)], r"items\[1\].*price"),
        ([item("a"), item("b", price=math.inf)], r"items\[1\].*price"),
        ([item("a"), item("b", price=10**400)], r"items\[1\].*price|cannot be sent"),
        ([item("a"), item("b", age=2**63)], r"items\[1\].*age"),
        ([item("a"), item("b", topic=None)], r"items\[1\].*topic"),
        ([item("a"), item("b", topic=datetime(2026, 1, 1, tzinfo=UTC))], r"items\[1\].*topic"),
        ([item("a"), item("b", topic=object())], r"items\[1\].*topic"),
    ],
)
def test_wrong_items_are_refused_in_words(
    loop: LoopClient, log: MemoryEventLog, items: object, what: str
) -> None:
    """With the number of the item, alone and in a batch; nothing of it is logged."""
    with pytest.raises(RequestError, match=what) as caught:
        loop.get_decision(FEATURES, items=items)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.hint
    right = {"features": FEATURES, "items": BROUGHT}
    with pytest.raises(RequestError, match=rf"batch\[1\]: .*{what}|{what}") as caught:
        loop.get_decisions([right, {"features": FEATURES, "items": items}])
    assert "batch[1]" in caught.value.what
    assert log.events == []


@pytest.mark.parametrize("wrong", ["", "x" * 201, "b\x1b[2J", 3])
def test_a_wrong_item_of_feedback_is_refused(loop: LoopClient, wrong: object) -> None:
    """It would end as an unknown item, hours later, where nobody sees it."""
    with pytest.raises(RequestError, match="field 'item' is") as caught:
        loop.log_feedback("d-1", "clicked", item=wrong, **CLICK)  # type: ignore[arg-type]
    assert caught.value.hint


class TestALoopWithoutItems:
    """Requests with items that went to another loop."""

    @pytest.fixture
    def worker(self, log: MemoryEventLog) -> Worker:
        """A worker of a loop without items."""
        return serving(minimal(), log)

    def test_it_takes_none(self, loop: LoopClient, log: MemoryEventLog) -> None:
        """They would be ignored for months."""
        for items in (BROUGHT, [item("a")]):
            with pytest.raises(RequestError, match="the requests of banner bring no items"):
                loop.get_decision(FEATURES, items=items)
        with pytest.raises(RequestError, match="the requests of banner bring no items"):
            loop.log_feedback("d-1", "clicked", item="b", **CLICK)  # type: ignore[arg-type]
        assert log.events == []


class TestAValueNamedItem:
    """Loops without items may have a value of that name, since before there were items."""

    LOOP = minimal(feedback={"clicked": {"within": "1h", "values": {"item": "category"}}})

    @pytest.fixture
    def worker(self, log: MemoryEventLog) -> Worker:
        """A worker of such a loop."""
        return serving(self.LOOP, log)

    def test_it_is_a_value_as_before(self, loop: LoopClient, log: MemoryEventLog) -> None:
        """A service that sends it must not break with the release that brings items."""
        loop.log_feedback("d-1", "clicked", item="b")
        (row,) = logged(self.LOOP, log, FEEDBACK)
        assert row["values"] == {"item": "b"}


@pytest.fixture
def without_worker(
    request: pytest.FixtureRequest, open_client: OpenClient, serve: Serve, dead_url: str
) -> Iterator[LoopClient]:
    """A client that knows its loop from a worker, and reaches none any more."""
    url = serve(serving(request.param, MemoryEventLog()))
    with Client(url, budget_ms=10_000) as healthy:
        items = BROUGHT if request.param.decision.items else None
        healthy.loop("banner").get_decision(FEATURES, items=items)
        client = open_client(dead_url, budget_ms=300)
        client._transport.rules.defaults.update(healthy._transport.rules.defaults)  # type: ignore[attr-defined]
    yield client.loop("banner")
    assert client.unanswered >= 1


@pytest.mark.parametrize("without_worker", [with_items()], indirect=True)
def test_without_a_worker_the_first_item_answers(without_worker: LoopClient) -> None:
    """The page shows what it would have shown, alone and in a batch."""
    result = without_worker.get_decision(FEATURES, items=BROUGHT)
    assert (result.action, result.source, result.propensity) == ("a", "fallback", 1.0)
    asked: list[dict[str, object]] = [
        {"features": FEATURES, "items": BROUGHT[1:]},
        {"features": FEATURES, "items": BROUGHT, "baseline": "c"},
    ]
    assert [one.action for one in without_worker.get_decisions(asked)] == ["b", "c"]
    with pytest.raises(RequestError, match="not among the items"):
        without_worker.get_decision(FEATURES, items=BROUGHT, baseline="z")
    with pytest.raises(RequestError, match="items are missing"):
        without_worker.get_decision(FEATURES)


@pytest.mark.parametrize("without_worker", [with_items("ranking")], indirect=True)
def test_without_a_worker_the_order_of_the_items_answers(without_worker: LoopClient) -> None:
    """As a worker without a model does, the propensity of an order is not told."""
    result = without_worker.get_decision(FEATURES, items=BROUGHT)
    assert (result.action, result.source, result.propensity) == (["a", "b", "c"], "fallback", None)
    given = without_worker.get_decision(FEATURES, items=BROUGHT, baseline=["c", "a"])
    assert given.action == ["c", "a"]
    with pytest.raises(RequestError, match="not among the items"):
        without_worker.get_decision(FEATURES, items=BROUGHT, baseline=["c", "c"])


@pytest.mark.parametrize("without_worker", [minimal()], indirect=True)
def test_without_a_worker_a_loop_without_items_takes_none(without_worker: LoopClient) -> None:
    """An outage must not hide the mistake."""
    assert without_worker.get_decision(FEATURES).action is False
    with pytest.raises(RequestError, match="bring no items"):
        without_worker.get_decision(FEATURES, items=BROUGHT)
