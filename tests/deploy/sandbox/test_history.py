"""A history is read by the rules of serving, and what is wrong is told with its line."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.schemas.loops import minimal, with_items

from tidemill.deploy.sandbox.history import (
    MAX_LINE_BYTES,
    HistoryReader,
    checked_action,
    read_history,
)
from tidemill.errors import ConfigError, RequestError
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Decision

AT = "2026-03-04T05:06:07Z"
FEATURES = {"country": "PT", "visits": 3}
VALUES = {"seconds": 4.0, "page": "home"}
DECISION = {"id": "d1", "at": AT, "features": FEATURES}
CLICK = {"decision_id": "d1", "kind": "clicked", "at": AT, "values": VALUES}


def line(known: Mapping[str, object], **changes: object) -> bytes:
    """Return *known* with *changes* as a line; a change to None takes a field away."""
    changed = {**known, **changes}
    return json.dumps({k: v for k, v in changed.items() if v is not None}).encode()


def test_a_decision_has_the_default_and_no_propensity_unless_its_line_says_so() -> None:
    """A log that knows no propensity is a log, too."""
    reader = HistoryReader(minimal())
    plain = reader.event(1, line(DECISION))
    assert (plain.key, plain.log, plain.kind) == ("d1", DECISIONS, None)
    assert plain.at == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert plain.fields["action"] is False
    assert plain.fields["propensity"] is None
    assert plain.fields["source"] == "history"
    assert plain.fields["features"] == FEATURES
    known = reader.event(1, line(DECISION, action=True, propensity=0.25, source="explore"))
    assert [known.fields[name] for name in ("action", "propensity", "source")] == [
        True,
        0.25,
        "explore",
    ]


def test_a_feedback_without_an_id_has_the_same_one_in_each_run() -> None:
    """Published twice, it counts once."""
    reader = HistoryReader(minimal())
    first, again = (reader.event(7, line(CLICK)) for _ in range(2))
    assert first.fields["id"] == again.fields["id"]
    assert reader.event(8, line(CLICK)).fields["id"] != first.fields["id"]
    assert reader.event(8, line(CLICK, id="own")).fields["id"] == "own"
    assert (first.key, first.kind, first.fields["values"]) == ("d1", "clicked", VALUES)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (line(DECISION, at=None), "no time `at`"),
        (line(DECISION, at="2026-03-04T05:06:07"), "no time `at`"),
        (line(DECISION, at="yesterday"), "at"),
        (line(DECISION, id=None), "no id"),
        (line(DECISION, features=None), "neither a decision nor a feedback"),
        (line(DECISION, decision_id="d0"), "neither a decision nor a feedback"),
        (line(DECISION, features={"country": "PT"}), "visits"),
        (line(DECISION, features={**FEATURES, "x": 1}), "x"),
        (line(DECISION, price=3), "price"),
        (line(DECISION, action="show"), "no bool of the loop"),
        (line(DECISION, propensity=0.0), "propensity is 0.0"),
        (line(DECISION, at="1999-01-01T00:00:00Z"), "max_age"),
        (line(CLICK, kind=None), "no kind"),
        (line(CLICK, kind="bought"), "no feedback 'bought'"),
        (line(CLICK, values={"seconds": 1.0}), "page"),
    ],
)
def test_a_line_that_serving_would_refuse_is_refused_by_its_number(wrong: bytes, what: str) -> None:
    """The file has a million lines, and one of them is wrong."""
    with pytest.raises(RequestError, match="line 12: ") as error:
        HistoryReader(minimal()).event(12, wrong)
    assert what in error.value.what
    assert error.value.hint


@pytest.mark.parametrize(
    ("decision", "legal", "illegal"),
    [
        (Decision(type="bool", default=False), [True], [1, "true", None]),
        (Decision(type="float", default=0.5), [1, 2.5], [True, "1"]),
        (Decision(type="choice", actions=["a", "b"], default="a"), ["b"], ["c", ["a"], 1]),
        (
            Decision(type="ranking", actions=["a", "b"], default=["a"]),
            [["b", "a"], ["b"]],
            [["b", "b"], [], ["c"], "a"],
        ),
    ],
)
def test_an_action_is_one_of_the_loop(
    decision: Decision, legal: list[object], illegal: list[object]
) -> None:
    """An action that does not exist would be learned as one."""
    for action in legal:
        assert checked_action(decision, action) == action
    for action in illegal:
        with pytest.raises(RequestError, match="of the loop"):
            checked_action(decision, action)


def test_events_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    """Exports have one table behind the other, which would make all feedback late."""
    path = tmp_path / "history.jsonl"
    done: list[tuple[int, int]] = []
    times = ["2026-03-04T05:00:03Z", "2026-03-04T05:00:01Z", "2026-03-04T05:00:02Z"]
    path.write_bytes(b"\n\n".join(line(DECISION, id=at[-2], at=at) for at in times))
    events = read_history(path, minimal(), lambda *both: done.append(both))
    assert [event.key for event in events] == ["1", "2", "3"]
    assert done[-1] == (path.stat().st_size, path.stat().st_size)


def test_a_file_without_a_decision_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    """The hint shows what a line looks like."""
    path = tmp_path / "history.jsonl"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_history(path, minimal())
    path.write_bytes(line(CLICK))
    with pytest.raises(ConfigError, match="no decision") as error:
        read_history(path, minimal())
    assert '"features"' in (error.value.hint or "")


def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A wrong file may have a gigabyte in its first line."""
    path = tmp_path / "history.jsonl"
    path.write_bytes(b" " * (2 * MAX_LINE_BYTES))
    with pytest.raises(RequestError, match="line 1 has more than"):
        read_history(path, minimal())


def brought(name: str, **more: object) -> dict[str, object]:
    """Return an item of a line."""
    return {"id": name, "features": {"price": 3.0, "topic": "news"}, **more}


def placed(fields: Mapping[str, object]) -> list[tuple[object, object, object]]:
    """Return id, propensity and position of each item of an event."""
    items = fields["items"]
    assert isinstance(items, list)
    return [(each["id"], each["propensity"], each["position"]) for each in items]


def test_items_of_a_line_become_those_of_the_event() -> None:
    """With what was shown at which position, and with what probability."""
    items = [brought("a", propensity=0.75), brought("b", propensity=0.25)]
    reader = HistoryReader(with_items())
    event = reader.event(1, line(DECISION, items=items, action="b", baseline="b"))
    assert event.fields["action"] == event.fields["baseline"] == "b"
    assert placed(event.fields) == [("a", 0.75, None), ("b", 0.25, 0)]
    plain = reader.event(1, line(DECISION, items=[brought("a"), brought("b")], propensity=0.5))
    assert placed(plain.fields) == [("a", 0.5, 0), ("b", None, None)]
    ranked = HistoryReader(with_items("ranking"))
    event = ranked.event(1, line(DECISION, items=items, action=["b"]))
    assert (event.fields["action"], placed(event.fields)[1]) == (["b"], ("b", 0.25, 0))
    event = ranked.event(1, line(DECISION, items=items))
    assert event.fields["action"] == ["a", "b"]


def test_feedback_may_name_an_item() -> None:
    """Without one it counts for all that were shown."""
    reader = HistoryReader(with_items())
    assert reader.event(1, line(CLICK, item="b")).fields["item"] == "b"
    assert "item" not in reader.event(1, line(CLICK)).fields


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({}, "items are missing"),
        ({"items": [brought("a", propensity=1.5)]}, "no probability"),
        ({"items": [brought("a", propensity="x")]}, "no probability"),
        ({"items": [brought("a", price=1)]}, "price"),
        ({"items": [brought("a"), brought("a")]}, "has the id"),
        ({"items": [brought("a")], "action": "b"}, "not among the items"),
        ({"items": [brought("a")], "action": ["a"]}, "not among the items"),
        ({"items": [brought("a")], "baseline": "b"}, "not among the items"),
    ],
)
def test_items_that_serving_would_refuse_are_refused(wrong: dict[str, object], what: str) -> None:
    """And what only a history can have wrong: an action, a propensity."""
    with pytest.raises(RequestError, match="line 3: ") as error:
        HistoryReader(with_items()).event(3, line(DECISION, **wrong))
    assert what in error.value.what
    assert error.value.hint
