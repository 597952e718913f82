"""What may change between versions, and what is refused with its hint."""

import pytest
from tests.schemas.loops import minimal

from tidemill.errors import ContractError
from tidemill.schemas.loop.diff import check_successor, diff_loops
from tidemill.schemas.published import register
from tidemill.schemas.registry.choose import MemorySchemaStore

FEEDBACK = {"within": "30m", "values": {"seconds": "float", "page": "category"}}


def test_equal_definitions_differ_in_nothing() -> None:
    """Publishing twice is what a deployment does every day."""
    assert diff_loops(minimal(), minimal()) == []
    assert check_successor({1: minimal()}, minimal()) is False


def test_a_changed_type_under_the_same_version_is_refused() -> None:
    """Somebody may have logged a million events with it already."""
    changed = minimal(features={"country": "category", "visits": "category"})
    with pytest.raises(ContractError, match=r"differs in features\.visits") as caught:
        check_successor({1: minimal()}, changed)
    assert "version: 2" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "path", "hint"),
    [
        ({"features": {"country": "category", "visits": "bool"}}, "features.visits", "visits_bool"),
        (
            {"features": {"country": "category", "visits": "int", "age": "float"}},
            "features.age",
            "nullable: true",
        ),
        (
            {"decision": {"type": "float", "default": 0.0}, "policy": {"kind": "value"}},
            "decision.type",
            "another name",
        ),
        ({"partitions": 8}, "partitions", "partitions: 4"),
        (
            {"feedback": {"clicked": {**FEEDBACK, "values": {"seconds": "int"}}}},
            "feedback.clicked.values.seconds",
            "seconds_int",
        ),
        (
            {"features": {"country": "category", "visits": "float"}},
            "features.visits",
            "visits_float",
        ),
        (
            {"feedback": {"bought": {"within": "1d", "values": {"page": "int"}}}},
            "feedback.bought.values.page",
            "page_int",
        ),
        ({"loop": "other"}, "loop", "same name"),
    ],
)
def test_what_would_make_older_events_unreadable_is_refused(
    changes: dict[str, object], path: str, hint: str
) -> None:
    """A new version is free to want more, but not to forget what was said before."""
    new = minimal(version=2, **changes)
    [bad] = [change for change in diff_loops(minimal(), new) if not change.is_compatible]
    assert bad.path == path
    assert hint in bad.hint
    with pytest.raises(ContractError):
        check_successor({1: minimal()}, new)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"features": {"country": "category"}}, "features.visits"),
        (
            {
                "features": {
                    "country": "category",
                    "visits": "int",
                    "age": {"type": "int", "default": 1},
                }
            },
            "features.age",
        ),
        ({"feedback": {"clicked": FEEDBACK, "bought": {"within": "1d"}}}, "feedback.bought"),
        ({"feedback": {"clicked": {**FEEDBACK, "within": "1h"}}}, "feedback.clicked.within"),
        ({"grace": "5m"}, "grace"),
        ({"label": {"sql": "count(*) > 1"}}, "label.sql"),
        ({"models": {"batch": None}}, "models.batch"),
    ],
)
def test_what_older_events_survive_is_allowed_and_shown(
    changes: dict[str, object], path: str
) -> None:
    """The diff is what a reviewer reads."""
    new = minimal(version=2, **changes)
    changed = diff_loops(minimal(), new)
    assert path in [change.path for change in changed]
    assert all(change.is_compatible for change in changed)
    assert check_successor({1: minimal()}, new) is True


def test_a_value_that_moves_to_another_kind_keeps_its_type() -> None:
    """All kinds share one column for each name, also when the first kind no longer has it."""

    def kinds(clicked: object, bought: object) -> dict[str, object]:
        return {
            "clicked": {"within": "30m", "values": clicked},
            "bought": {"within": "1d", "values": bought},
        }

    before = minimal(feedback=kinds({"note": "float"}, {}))
    for kind, problem in (("float", ""), ("category", "was float in another kind")):
        moved = minimal(version=2, feedback=kinds({}, {"note": {"type": kind, "nullable": True}}))
        problems = [each.problem for each in diff_loops(before, moved) if "bought" in each.path]
        assert len(problems) == 1
        assert problem in problems[0]


def test_what_an_older_version_had_is_remembered() -> None:
    """The newest let the feature go; its column and its events are there for years."""
    without = minimal(version=2, features={"country": "category"})
    known = {1: minimal(), 2: without}
    back = {"country": "category", "visits": {"type": "float", "nullable": True}}
    with pytest.raises(ContractError, match=r"beside version 1: features\.visits was") as caught:
        check_successor(known, minimal(version=3, features=back))
    assert "visits_float" in caught.value.hint
    back["visits"] = {"type": "int", "nullable": True}
    assert check_successor(known, minimal(version=3, features=back)) is True


def test_a_version_older_than_the_newest_is_refused() -> None:
    """It would be published and never used."""
    with pytest.raises(ContractError, match="older than version 3"):
        check_successor({1: minimal(), 3: minimal(version=3)}, minimal(version=2))


TYPES = ("float", "int", "bool", "category", "categories", "timestamp")


@pytest.mark.parametrize("old", [*TYPES, "nullable int"])
@pytest.mark.parametrize("new", [*TYPES, "nullable int", "nullable float"])
def test_what_the_diff_allows_the_schema_store_takes(old: str, new: str) -> None:
    """What the diff allows must not fail at publish, when topics exist already."""
    before, after = (
        minimal(
            version=version,
            features={"a": {"type": kind.split()[-1], "nullable": kind.startswith("nullable")}},
        )
        for version, kind in ((1, old), (2, new))
    )
    is_compatible = all(change.is_compatible for change in diff_loops(before, after))
    widens = "int" in old and "float" in new and (old == "int" or "nullable" in new)
    store = MemorySchemaStore()
    register(before, store)
    if is_compatible or widens:  # Avro widens an int, a column of the lake does not
        assert is_compatible is not widens
        register(after, store)
    else:
        with pytest.raises(ContractError):
            register(after, store)


ORDERS = {"within": "7d", "stream": "orders", "values": {"amount": "float"}}


def test_a_version_may_add_a_stream_and_move_kinds_to_it() -> None:
    """A team takes its events to a topic of its own; what lies in the old one is still read."""
    kinds = {"clicked": FEEDBACK, "left": {"within": "30m"}, "bought": ORDERS}
    moved = {**kinds, "left": {"within": "30m", "stream": "exits"}}
    changes = diff_loops(minimal(feedback=kinds), minimal(version=2, feedback=moved))
    assert [(change.path, change.old, change.new) for change in changes] == [
        ("feedback.left.stream", None, "exits"),
        ("topics", None, "banner.feedback.exits"),
    ]
    assert check_successor({1: minimal(feedback=kinds)}, minimal(version=2, feedback=moved))


@pytest.mark.parametrize(
    ("feedback", "topic", "hint"),
    [
        ({"clicked": FEEDBACK}, "banner.feedback.orders", "never: {within: 1s, stream: orders}"),
        (
            {"clicked": {**FEEDBACK, "stream": "web"}, "bought": ORDERS},
            "banner.feedback",
            "never: {within: 1s}",
        ),
    ],
)
def test_a_topic_with_feedback_in_it_cannot_be_left(
    feedback: dict[str, object], topic: str, hint: str
) -> None:
    """What no worker has read yet would be neither joined nor late: it would be gone."""
    old = minimal(feedback={"clicked": FEEDBACK, "bought": ORDERS})
    new = minimal(version=2, feedback=feedback)
    [bad] = [change for change in diff_loops(old, new) if not change.is_compatible]
    assert (bad.path, bad.old, bad.new) == ("topics", topic, None)
    assert hint in bad.hint
    with pytest.raises(ContractError, match="would be lost"):
        check_successor({1: old}, new)


def test_a_kind_that_nobody_sends_keeps_a_topic_read() -> None:
    """What the hint says to write is legal, and changes no window."""
    old = minimal(feedback={"clicked": FEEDBACK, "bought": ORDERS})
    never = {"never": {"within": "1s", "stream": "orders"}}
    new = minimal(version=2, feedback={"clicked": FEEDBACK, **never})
    assert check_successor({1: old}, new)
    assert new.logs == old.logs


def test_a_diff_shows_durations_and_sizes_as_people_write_them() -> None:
    """`0:00:30` and `512000000` are not what stands in the file."""
    retrain = {"batch": {"retrain": {"every": "1d"}}}
    changed = minimal(
        version=2,
        idle_after="90s",
        memory="2GB",
        models=retrain,
        feedback={"clicked": {**FEEDBACK, "within": "45m", "early": "500ms"}},
    )
    changes = {change.path: (change.old, change.new) for change in diff_loops(minimal(), changed)}
    assert changes == {
        "feedback.clicked.within": ("30m", "45m"),
        "feedback.clicked.early": ("0s", "500ms"),
        "models.batch.retrain.every": (None, "1d"),
        "idle_after": ("30s", "90s"),
        "memory": ("512MB", "2GB"),
    }
