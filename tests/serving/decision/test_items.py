"""Requests that bring the items to choose among: checked, decided and logged."""

import json
import math

import numpy as np
import pytest
from tests.schemas.loops import ITEMS, minimal, with_items

from tidemill.errors import RequestError
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import register
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.decision.requests import DecisionReader, FeedbackReader
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.choice import Features, LiveModel

FEATURES = {"country": "at", "visits": 3}
GREEDY = {"kind": "greedy", "epsilon": 0.2}


def item(name: str, **features: object) -> dict[str, object]:
    """Return an item of a request."""
    return {"id": name, "features": {"price": 0.5, "topic": "news", **features}}


BROUGHT = [item("a", price=3.0), item("b", price=9.0, age=4), item("c", price=5.0)]


class Service:
    """A decider in memory, and what it has logged."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.log = MemoryEventLog()
        self.decider = Decider(loop, store=MemorySchemaStore(), log=self.log)

    def decide(self, items: object = BROUGHT, **more: object) -> DecisionResult:
        """Decide about the usual features."""
        check = self.decider.decisions.check
        return self.decider.decide(check(FEATURES, items=items, **more))  # type: ignore[arg-type]

    def logged(self, log: Log = DECISIONS) -> list[dict[str, object]]:
        """Return the events as a streams worker reads them."""
        store = MemorySchemaStore()
        register(self.loop, store)
        topic = f"{self.loop.loop}.{log}"
        found = EventDecoder(self.loop, log, store).decode(
            [event.value for event in self.log.events if event.topic == topic]
        )
        assert (found.poison, found.slowly_read) == ([], 0)
        return found.frame.to_dicts()


def by_price(features: Features) -> float:
    """Score an item by its price, which comes behind the features of the loop."""
    assert features[:2] == ("at", 3)
    price = features[2]
    assert isinstance(price, float)
    return price


def places(row: dict[str, object]) -> list[tuple[object, object, object]]:
    """Return id, propensity and position of the items of a logged decision."""
    items = row["items"]
    assert isinstance(items, list)
    return [(each["id"], each["propensity"], each["position"]) for each in items]


def test_without_a_model_the_first_item_of_the_request_answers() -> None:
    """What a service sends first is what it would have shown."""
    service = Service(with_items())
    result = service.decide()
    assert (result.action, result.source, result.propensity) == ("a", "default", 1.0)
    (row,) = service.logged()
    assert row["action"] == "a"
    assert places(row) == [("a", 1.0, 0), ("b", 0.0, None), ("c", 0.0, None)]
    items = row["items"]
    assert isinstance(items, list)
    assert items[1]["features"] == {"price": 9.0, "topic": "news", "age": 4}
    assert items[0]["features"] == {"price": 3.0, "topic": "news", "age": None}


def test_a_model_scores_each_item_with_the_features_of_the_request() -> None:
    """One row an item: those of the loop, then its own."""
    service = Service(with_items(policy=GREEDY))
    service.decider.model = LiveModel("m-1", by_price)
    results = [service.decide(id=f"d-{number}") for number in range(40)]
    assert {each.source for each in results} == {"model"}
    assert {each.action for each in results} == {"a", "b", "c"}
    each, best = 0.2 / 3, 0.8 + 0.2 / 3
    for row, result in zip(service.logged(), results, strict=True):
        taken = {"a": 3.0, "b": 9.0, "c": 5.0}[str(result.action)]
        assert result.score == taken
        assert result.propensity == pytest.approx(best if result.action == "b" else each)
        assert [name for name, _, position in places(row) if position == 0] == [result.action]
        assert [propensity for _, propensity, _ in places(row)] == pytest.approx([each, best, each])
    explored = Service(with_items(policy=GREEDY))
    assert {explored.decide(id=f"d-{number}").source for number in range(40)} == {
        "default",
        "explore",
    }


@pytest.mark.parametrize("policy", [{"kind": "greedy"}, {"kind": "softmax", "temperature": 0.2}])
def test_a_ranking_orders_all_items(policy: dict[str, object]) -> None:
    """Each position has its probability, in the answer and in the log."""
    service = Service(with_items("ranking", policy=policy))
    service.decider.model = LiveModel("m-1", by_price)
    result = service.decide()
    assert result.action == ["b", "c", "a"]
    assert result.propensity is None
    assert result.propensities == pytest.approx([1.0] * 3, abs=0.01)
    (row,) = service.logged()
    assert row["propensities"] is None
    assert [(name, position) for name, _, position in places(row)] == [("a", 2), ("b", 0), ("c", 1)]
    assert [propensity for _, propensity, _ in places(row)] == [
        result.propensities[at] for at in (2, 0, 1) if result.propensities
    ]


def test_only_what_was_shown_is_logged_where_the_loop_says_so() -> None:
    """Two hundred items a decision are much to keep for somebody who never compares policies."""
    decision = {"type": "choice", "items": {**ITEMS, "log": "shown"}}
    service = Service(with_items(decision=decision))
    service.decide()
    assert places(service.logged()[0]) == [("a", 1.0, 0)]


def test_a_baseline_is_an_item_or_an_order_of_some() -> None:
    """It is the default of that decision, and the log has it."""
    service = Service(with_items())
    assert service.decide(baseline="c").action == "c"
    assert service.logged()[0]["baseline"] == "c"
    ranking = Service(with_items("ranking"))
    assert ranking.decide(baseline=["c", "a"]).action == ["c", "a"]
    (row,) = ranking.logged()
    assert places(row) == [("a", 1.0, 1), ("b", None, None), ("c", 1.0, 0)]


def test_an_apprentice_answers_the_baseline_and_logs_what_it_had_chosen() -> None:
    """It says what it would have gained before it decides anything."""
    service = Service(with_items(learning="apprentice"))
    service.decider.model = LiveModel("m-1", by_price)
    result = service.decide(baseline="c")
    assert (result.action, result.policy_action) == ("c", "b")
    (row,) = service.logged()
    assert row["policy_action"] == "b"
    assert places(row) == [("a", 0.0, None), ("b", 0.0, None), ("c", 1.0, 0)]


def test_a_model_that_fails_leaves_the_default() -> None:
    """A decision never fails; its event says that no model made it."""
    service = Service(with_items())
    service.decider.model = LiveModel("m-1", lambda _: math.nan)
    result = service.decide()
    assert (result.action, result.source) == ("a", "fallback")
    assert places(service.logged()[0])[0] == ("a", 1.0, 0)


@pytest.mark.parametrize(
    ("items", "what", "hint"),
    [
        (None, "items are missing", '"items": [{"id"'),
        ("a", "items are 'a', not a list", '"items": [{"id"'),
        ([], "brings 0 items", "there has to be one"),
        ([item(str(number)) for number in range(51)], "brings 51 items", "decision.items.max"),
        (
            [item("b"), item("a"), item("a")],
            "items[2] has the id 'a' of items[1]",
            "each item once",
        ),
        ([item("a"), {"id": "b"}], "items[1]: field 'features' is missing", "an item has an id"),
        ([item("a"), {"id": "", "features": {}}], "items[1]", "an item has an id"),
        (
            [{"id": "a", "features": {"price": 1.0}}],
            "feature 'topic' is missing",
            "topic (category",
        ),
        ([item("a"), item("b", price="1")], "items[1].features.price", "price (float)"),
        ([item("a", colour="red")], "feature 'colour' is unknown", "price (float)"),
        ([item("a", price=object())], "items[0]: feature 'price'", "send texts"),
        ([{**item("a"), "colour": 1}], "field 'colour' is unknown", "an item has an id"),
        ([7], "items[0]", "an item has an id"),
        ([{"id": "x" * 201, "features": {}}], "items[0].id", "an item has an id"),
        (
            [item("a"), item("b\n")],
            "items[1] has the id 'b\\n', which cannot be printed",
            "leave control characters",
        ),
        ([item("a"), item("\x85")], "items[1] has the id '\\x85', which cannot be", "control"),
        ([item("a"), item("b\ud83d")], "items[1]", "halves of surrogate"),
        ([item("a"), item("b", price=math.nan)], "items[1].features.price", "price (float)"),
        ([item("a"), item("b", price=math.inf)], "items[1]: feature 'price' is inf", "finite"),
        ([item("a"), item("b", age=2**63)], "items[1].features.age", "age (int)"),
    ],
)
def test_items_that_do_not_fit_are_refused(items: object, what: str, hint: str) -> None:
    """Whoever writes the service finds the one wrong item among two hundred."""
    reader = DecisionReader(with_items())
    with pytest.raises(RequestError) as caught:
        reader.check(FEATURES, items=items)
    assert what in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "baseline"), [("choice", "z"), ("choice", ["a"]), ("ranking", "a"), ("ranking", [])]
)
def test_a_baseline_that_is_no_item_is_refused(kind: str, baseline: object) -> None:
    """What was not to choose from cannot have been done."""
    with pytest.raises(RequestError, match="not among the items") as caught:
        DecisionReader(with_items(kind)).check(FEATURES, items=BROUGHT, baseline=baseline)
    assert "leave it out" in caught.value.hint


def test_a_loop_without_items_takes_none() -> None:
    """A service that sends them to the wrong loop is told."""
    with pytest.raises(RequestError, match="bring no items"):
        DecisionReader(minimal()).check(FEATURES, items=BROUGHT)
    with pytest.raises(RequestError, match="bring no items"):
        FeedbackReader(minimal()).check("d", "clicked", {"seconds": 1.0, "page": "p"}, item="a")


def test_numbers_of_numpy_are_numbers_of_items_too() -> None:
    """Features of items come out of data frames."""
    sent = [item("a", price=np.float32(0.5), age=np.int64(3))]
    request = DecisionReader(with_items()).check(FEATURES, items=sent)
    assert request.items is not None
    assert request.items.rows == [(0.5, "news", 3)]


def test_bodies_with_items_are_read_as_json() -> None:
    """Alone and in a batch; a key that stands twice inside of an item is found."""
    reader = DecisionReader(with_items())
    body = {"features": FEATURES, "items": BROUGHT}
    one = reader.read(json.dumps(body).encode())
    many = reader.read(json.dumps({"batch": [body, body]}).encode())
    assert [one, one] == many
    twice = json.dumps(body).replace('"price": 9.0', '"price": 9.0, "price": 8.0')
    with pytest.raises(RequestError, match="'price' stands twice"):
        reader.read(twice.encode())
    with pytest.raises(RequestError, match=r"batch\[1\]: the request brings 0 items"):
        reader.read(json.dumps({"batch": [body, {**body, "items": []}]}).encode())


def test_feedback_names_its_item() -> None:
    """Without a name it counts for all that were shown."""
    service = Service(with_items())
    reader = service.decider.feedback
    body = {"decision_id": "d", "kind": "clicked", "values": {"seconds": 1.0, "page": "p"}}
    for sent in ({**body, "item": "b"}, body):
        request = reader.read(json.dumps(sent).encode())
        assert not isinstance(request, list)
        service.decider.take_feedback(request)
    assert [row["item"] for row in service.logged(FEEDBACK)] == ["b", None]
    for wrong in ("", "x" * 201, "b\n", "b\x1b[2J", 3):
        with pytest.raises(RequestError, match="field 'item' is") as caught:
            reader.check("d", "clicked", {"seconds": 1.0, "page": "p"}, item=wrong)  # type: ignore[arg-type]
        assert caught.value.hint
