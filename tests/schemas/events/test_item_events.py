"""Events of loops with items: what a decision chose among, and what feedback is about."""

from datetime import timedelta

import fastavro
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schemas.loops import ITEMS, minimal, with_items
from tests.schemas.sample_events import by_fastavro, same

from tidemill.errors import ContractError
from tidemill.schemas.avro.primitives import EPOCH
from tidemill.schemas.events.decoder import Decoded, EventDecoder
from tidemill.schemas.events.schemas import (
    DecisionEncoder,
    FeedbackEncoder,
    decision_frame_schema,
    decision_schema,
    feedback_frame_schema,
    feedback_schema,
)
from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.choose import MemorySchemaStore

LOOP = with_items()
RANKING = with_items("ranking")
Event = dict[str, object]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=15)
items = st.lists(
    st.fixed_dictionaries(
        {
            "id": texts,
            "propensity": st.none() | st.floats(0, 1),
            "position": st.none() | st.integers(0, 200),
            "features": st.fixed_dictionaries(
                {
                    "price": st.floats(),
                    "topic": texts,
                    "age": st.none() | st.integers(-(2**63), 2**63 - 1),
                }
            ),
        }
    ),
    max_size=6,
)


def decision(listed: object, **changes: object) -> Event:
    """Return a decision among the items *listed*."""
    return {
        "id": "d1",
        "at": EPOCH + timedelta(days=16_000),
        "action": "a",
        "source": "explore",
        "policy_version": 1,
        "loop_version": 1,
        "features": {"country": "at", "visits": 3},
        "items": listed,
        **changes,
    }


def item(name: str, **features: object) -> Event:
    """Return the item *name*."""
    return {"id": name, "features": {"price": 0.5, "topic": "news", **features}}


def decoded(payloads: list[bytes], loop: Loop, store: MemorySchemaStore) -> Decoded:
    """Return what a worker of *loop* makes of decisions."""
    return EventDecoder(loop, DECISIONS, store).decode(payloads)


@settings(deadline=None)
@given(st.lists(st.none() | items, min_size=1, max_size=4))
def test_decisions_with_items_are_what_fastavro_reads(lists: list[object]) -> None:
    """A service in another language logs its decisions with a library of its own."""
    store = MemorySchemaStore()
    encoder = DecisionEncoder(LOOP, store)
    payloads = [encoder.encode(decision(each)) for each in lists]
    found = decoded(payloads, LOOP, store)
    assert (found.poison, found.slowly_read) == ([], 0)
    assert found.frame.schema == {"row": pl.UInt32, **decision_frame_schema(LOOP)}
    schema = decision_schema(LOOP)
    assert [same(row) for row in found.frame.drop("row").to_dicts()] == [
        same(by_fastavro(payload[10:], schema)) for payload in payloads
    ]


def test_feedback_may_name_its_item() -> None:
    """Without one it is about all that were shown."""
    store = MemorySchemaStore()
    encoder = FeedbackEncoder(LOOP, store)
    event = {"id": "f", "decision_id": "d", "at": EPOCH, "values": {"seconds": 1.0, "page": "p"}}
    payloads = [encoder.encode("clicked", {**event, **more}) for more in ({"item": "a"}, {})]
    found = EventDecoder(LOOP, FEEDBACK, store).decode(payloads)
    assert found.frame.schema == {"row": pl.UInt32, **feedback_frame_schema(LOOP)}
    assert found.frame["item"].to_list() == ["a", None]


@pytest.mark.parametrize("loop", [minimal(), minimal(policy={"kind": "threshold"})])
def test_events_of_loops_without_items_are_what_they_were(loop: Loop) -> None:
    """Their schemas are registered; a new field would make a new version of each of them."""
    fields = decision_schema(loop)["fields"]
    assert isinstance(fields, list)
    assert fields[-1]["name"] == "arm"
    assert "item" not in str(feedback_schema(loop, "clicked"))
    assert "items" not in decision_frame_schema(loop)
    assert "item" not in feedback_frame_schema(loop)


def grown(**features: object) -> Loop:
    """Return a second version, whose items have *features*."""
    return with_items(
        version=2, decision={"type": "choice", "items": {**ITEMS, "features": features}}
    )


def test_items_of_the_first_version_are_read_by_the_second_and_the_other_way() -> None:
    """While a version is rolled out, each meets the events of the other."""
    newer = grown(price="float", topic="category", colour={"type": "category", "default": "red"})
    store = MemorySchemaStore()
    old = DecisionEncoder(LOOP, store).encode(decision([item("a", age=4), item("b", age=None)]))
    new = DecisionEncoder(newer, store).encode(decision([item("c", colour="blue")]))
    rows = decoded([old, new], newer, store).frame["items"].to_list()
    assert [[each["features"] for each in row] for row in rows] == [
        [{"price": 0.5, "topic": "news", "colour": "red"}] * 2,
        [{"price": 0.5, "topic": "news", "colour": "blue"}],
    ]
    rows = decoded([old, new], LOOP, store).frame["items"].to_list()
    assert [[each["features"]["age"] for each in row] for row in rows] == [[4, None], [None]]


def test_a_null_of_a_later_version_is_no_value_of_this_one() -> None:
    """The first version promised its model that each item has a price."""
    loose = grown(price={"type": "float", "nullable": True}, topic="category")
    store = MemorySchemaStore()
    encoder = DecisionEncoder(loose, store)
    payloads = [
        encoder.encode(decision([item("a"), item("b", price=price)])) for price in (None, 1.0)
    ]
    payloads.append(encoder.encode(decision(None)))
    found = decoded(payloads, LOOP, store)
    assert [(each.row, each.reason) for each in found.poison] == [(0, "wrong-type")]
    assert "items.[].features.price" in found.poison[0].detail
    assert found.frame["row"].to_list() == [1, 2]


def test_a_feature_of_items_keeps_its_type() -> None:
    """Events of the first version could not be read any more."""
    store = MemorySchemaStore()
    DecisionEncoder(LOOP, store)
    with pytest.raises(ContractError, match="topic was string"):
        DecisionEncoder(grown(price="float", topic="int"), store)


def test_a_ranking_has_the_position_of_each_item() -> None:
    """Its action is the order, and each item says where it came and how likely that was."""
    store = MemorySchemaStore()
    listed = [
        {**item("a"), "position": 1, "propensity": 1.0},
        {**item("b"), "position": 0, "propensity": 0.25},
    ]
    payload = DecisionEncoder(RANKING, store).encode(decision(listed, action=["b", "a"]))
    row = decoded([payload], RANKING, store).frame.row(0, named=True)
    assert row["action"] == ["b", "a"]
    assert [(each["position"], each["propensity"]) for each in row["items"]] == [
        (1, 1.0),
        (0, 0.25),
    ]
    fastavro.parse_schema(dict(decision_schema(RANKING)))
