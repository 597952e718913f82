"""A test of a service says which item wins, and what production refuses is refused."""

import asyncio
from collections.abc import Mapping

import pytest
from tests.schemas.loops import with_items
from tests.serving.decision.test_items import BROUGHT, FEATURES, item

from tidemill.errors import BrokerError, RequestError
from tidemill.testing.scripted import ScriptedClient, ScriptedTransport, ScriptError

CLICK: dict[str, object] = {"seconds": 1.0, "page": "p"}


def client_of(kind: str = "choice", **policy: object) -> ScriptedClient:
    """Return a client with one loop, whose scripts nobody checks in the end."""
    made = ScriptedClient.through(ScriptedTransport())
    made.add(with_items(kind, policy={"kind": "greedy", "epsilon": 0.5, **policy}))
    return made


def test_a_script_says_which_item_wins() -> None:
    """Alone, in a batch and awaited; what the service sent is recorded with all features."""
    client = client_of()
    client.script("banner", ["b", "a", "c"])
    loop = client.loop("banner")
    assert loop.get_decision(FEATURES, items=BROUGHT).action == "b"
    (second,) = loop.get_decisions([{"features": FEATURES, "items": BROUGHT}])

    async def awaited() -> object:
        asked = client.awaited().loop("banner")
        result = await asked.get_decision(FEATURES, items=BROUGHT)
        await asked.log_feedback(result.id, "clicked", item="c", **CLICK)  # type: ignore[arg-type]
        return result.action

    assert (second.action, second.source, asyncio.run(awaited())) == ("a", "script", "c")
    client.check_scripts()
    asked = client.decisions("banner")[0]
    assert asked.items is not None
    assert asked.items[1] == {"id": "b", "features": {"price": 9.0, "topic": "news", "age": 4}}
    assert asked.items[0] == {"id": "a", "features": {"price": 3.0, "topic": "news", "age": None}}
    assert [each.item for each in client.feedback("banner")] == ["c"]


def test_a_script_says_an_order() -> None:
    """All of the items, or the first few of a page."""
    client = client_of("ranking")
    client.script("banner", [["c", "a"]])
    result = client.loop("banner").get_decision(FEATURES, items=BROUGHT)
    assert (result.action, result.source) == (["c", "a"], "script")


@pytest.mark.parametrize(
    ("kind", "answer"), [("choice", "z"), ("ranking", ["a", "z"]), ("ranking", ["z"])]
)
def test_an_item_that_was_not_asked_about_cannot_win(kind: str, answer: object) -> None:
    """The service did not send it, which is what the test wanted to know."""
    client = client_of(kind)
    client.script("banner", [answer])
    with pytest.raises(ScriptError, match="asked about the items a, b, c"):
        client.loop("banner").get_decision(FEATURES, items=BROUGHT)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("choice", ["a"]), ("choice", ""), ("ranking", "a"), ("ranking", ["a", "a"]), ("ranking", [])],
)
def test_what_is_no_item_at_all_is_no_script(kind: str, answer: object) -> None:
    """The mistake is in the test, and is found where it stands."""
    with pytest.raises(RequestError, match=f"is no answer of this {kind} decision") as caught:
        client_of(kind).script("banner", [answer])
    assert "item" in caught.value.hint


def test_a_pinned_score_reads_the_features_of_an_item() -> None:
    """By their names, those of the request among them, and without epsilon."""

    def score(features: Mapping[str, object]) -> float:
        assert features.keys() == {"country", "visits", "price", "topic", "age"}
        price = features["price"]
        assert isinstance(price, float)
        return price if features["country"] == "at" else -price

    client = client_of()
    client.pin("banner", score)
    loop = client.loop("banner")
    results = [loop.get_decision(FEATURES, items=BROUGHT) for _ in range(20)]
    assert {(one.action, one.score, one.source) for one in results} == {("b", 9.0, "model")}
    assert loop.get_decision({**FEATURES, "country": "pt"}, items=BROUGHT).action == "a"
    ranking = client_of("ranking")
    ranking.pin("banner", score)
    result = ranking.loop("banner").get_decision(FEATURES, items=BROUGHT)
    assert (result.action, result.propensity) == (["b", "c", "a"], None)


def test_without_a_script_the_request_says_what_comes_first() -> None:
    """The same in an outage, in which feedback is not taken."""
    client = client_of()
    loop = client.loop("banner")
    assert {loop.get_decision(FEATURES, items=BROUGHT).action for _ in range(20)} == {"a"}
    assert loop.get_decision(FEATURES, items=BROUGHT, baseline="c").action == "c"
    with client.outage():
        result = loop.get_decision(FEATURES, items=BROUGHT[1:])
        with pytest.raises(BrokerError):
            loop.log_feedback("d-1", "clicked", item="a", **CLICK)  # type: ignore[arg-type]
    assert (result.action, result.source) == ("b", "fallback")


def test_what_production_would_refuse_is_refused() -> None:
    """By the code of serving, with the number of the item, and its place in a batch."""
    client = client_of()
    loop = client.loop("banner")
    wrong = [item("a"), item("a")]
    with pytest.raises(RequestError, match=r"^items\[1\] has the id 'a' of items\[0\]"):
        loop.get_decision(FEATURES, items=wrong)
    right = {"features": FEATURES, "items": BROUGHT}
    with pytest.raises(RequestError, match=r"^batch\[1\]: items are missing"):
        loop.get_decisions([right, {"features": FEATURES}])
    with pytest.raises(RequestError, match="field 'item' is ''"):
        loop.log_feedback("d-1", "clicked", item="", **CLICK)  # type: ignore[arg-type]
    assert client.decisions("banner") == []
