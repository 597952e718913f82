"""What a service sends is judged alike over HTTP and in its own process."""

import decimal
import enum
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from typing import Any

import numpy as np
import pytest
from tests.serving.models import FEATURES

from tidemill import Client
from tidemill.errors import RequestError
from tidemill.serving.client.client import LoopClient
from tidemill.serving.client.embedded import EmbeddedTransport
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import Worker

NOW = datetime.now(UTC)


class Country(enum.StrEnum):
    """Texts of an enumeration."""

    PORTUGAL = "c01"


class Visits(enum.IntEnum):
    """Numbers of an enumeration."""

    SOME = 3


class Moment(datetime):
    """A datetime of another library."""


@pytest.fixture
def both(url: str, worker: Worker) -> Iterator[tuple[LoopClient, LoopClient]]:
    """The calls for one loop of one worker, over HTTP and in process."""
    with Client(url, budget_ms=60_000) as over_http:
        inside = Client.through(EmbeddedTransport(worker))
        yield over_http.loop("banner"), inside.loop("banner")


def is_accepted(call: Callable[[], object]) -> bool:
    """Return whether *call* is taken, or refused with a hint."""
    try:
        call()
    except RequestError as error:
        return not error.hint
    return True


def told(log: MemoryEventLog) -> list[bytes]:
    """Return what was logged since the last time, without ids and times, which differ."""
    values = [event.value or b"" for event in log.events]
    log.events.clear()
    return values


VALUES: list[tuple[str, object, bool]] = [
    ("country", Country.PORTUGAL, True),
    ("country", np.str_("c02"), True),
    ("country", b"PT", False),
    ("country", bytearray(b"PT"), False),
    ("country", memoryview(b"PT"), False),
    ("country", uuid.UUID(int=7), False),
    ("country", decimal.Decimal("3"), False),
    ("country", timedelta(days=1), False),
    ("country", None, False),
    ("country", "\ud800", False),
    ("country", {"a": 1}, False),
    ("visits", Visits.SOME, True),
    ("visits", np.int64(3), True),
    ("visits", 2**63 - 1, True),
    ("visits", 2**63, False),
    ("visits", 2**70, False),
    ("visits", 3.0, False),
    ("visits", True, False),
    ("visits", decimal.Decimal("3"), False),
    ("amount", 2**70, True),
    ("amount", 10**400, False),
    ("amount", decimal.Decimal("1.5"), True),
    ("amount", decimal.Decimal("Infinity"), False),
    ("amount", np.float32(0.5), True),
    ("amount", float("inf"), False),
    ("amount", float("-inf"), False),
    ("amount", float("nan"), False),
    ("amount", np.float64("inf"), False),
    ("amount", 1 + 2j, False),
    ("amount", True, False),
    ("member", np.bool_(True), True),
    ("member", 1, False),
    ("seen", NOW, True),
    ("seen", Moment.now(UTC), True),
    ("seen", "2026-01-01T00:00:00Z", True),
    ("seen", datetime(1900, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))), True),
    ("seen", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))), False),
    ("seen", datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2))), False),
    ("seen", NOW.replace(tzinfo=None), False),
    ("seen", date(2026, 1, 1), False),
    ("seen", np.datetime64("2026-01-01"), False),
    ("seen", 3, False),
    ("tags", ("new", "old"), True),
    ("tags", {"new"}, True),
    ("tags", [Country.PORTUGAL], True),
    ("tags", ["new"] * 1_000, True),
    ("tags", ["new"] * 1_001, False),
    ("tags", [b"new"], False),
    ("tags", [["new"]], False),
    ("tags", [None], False),
    ("tags", np.array(["new"]), False),
    ("age", float("nan"), True),
    ("age", None, True),
]


@pytest.mark.parametrize(("name", "value", "is_taken"), VALUES)
def test_a_feature_is_judged_alike(
    name: str,
    value: object,
    is_taken: bool,
    both: tuple[LoopClient, LoopClient],
    log: MemoryEventLog,
) -> None:
    """A model that learned nulls from one service and infinities from another learned neither."""
    verdicts, events = [], []
    for loop in both:
        sent = {**FEATURES, name: value}
        verdicts.append(is_accepted(partial(loop.get_decision, sent, id="d", at=NOW)))
        events.append(told(log))
    assert verdicts == [is_taken, is_taken]
    assert events[0] == events[1]
    assert len(events[0]) == is_taken


AROUND: list[tuple[dict[str, object], bool]] = [
    ({"id": ""}, False),
    ({"id": "x" * 200}, True),
    ({"id": "x" * 201}, False),
    ({"id": b"d"}, False),
    ({"id": uuid.UUID(int=7)}, False),
    ({"id": 3}, False),
    ({"entity": ""}, True),
    ({"entity": b"u"}, False),
    ({"entity": float("nan")}, False),
    ({"entity": NOW}, False),
    ({"at": NOW}, True),
    ({"at": NOW.isoformat()}, True),
    ({"at": Moment.now(UTC)}, True),
    ({"at": datetime(9999, 12, 31, tzinfo=UTC)}, False),
    ({"at": datetime(999, 1, 1, tzinfo=UTC)}, False),
    ({"at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2)))}, False),
    ({"at": NOW.replace(tzinfo=None)}, False),
    ({"at": NOW.timestamp()}, False),
    ({"at": b"2026"}, False),
]


@pytest.mark.parametrize(("around", "is_taken"), AROUND)
def test_what_goes_with_the_features_is_judged_alike(
    around: dict[str, Any],
    is_taken: bool,
    both: tuple[LoopClient, LoopClient],
    log: MemoryEventLog,
) -> None:
    """An id that nobody can name is told at once; so is what a streams worker would not take."""
    verdicts = []
    for loop in both:
        calls: list[Callable[[], object]] = [
            partial(loop.get_decision, FEATURES, **around),
            partial(loop.get_decisions, [{"features": FEATURES, **around}]),
        ]
        if "entity" not in around:
            calls.append(partial(loop.log_feedback, "d", "left", **around))
        verdicts += [is_accepted(call) for call in calls]
    assert set(verdicts) == {is_taken}
    assert (len(told(log)) > 0) == is_taken


@pytest.mark.parametrize(
    ("ahead", "is_taken"),
    [
        (timedelta(minutes=4), True),
        (timedelta(minutes=5), False),
        (timedelta(days=365), False),
        (timedelta(days=-3_000), True),
        (timedelta(days=-3_650), False),
    ],
)
def test_a_time_that_no_streams_worker_takes_is_judged_alike(
    ahead: timedelta, is_taken: bool, both: tuple[LoopClient, LoopClient]
) -> None:
    """Beyond `max_skew` or `max_age` it would be a dead letter, and many would stop the loop."""
    at = datetime.now(UTC) + ahead
    for loop in both:
        found = [
            is_accepted(partial(loop.get_decision, FEATURES, at=at)),
            is_accepted(partial(loop.get_decisions, [{"features": FEATURES, "at": at}])),
            is_accepted(partial(loop.log_feedback, "d", "left", at=at)),
        ]
        assert found == [is_taken] * 3


@pytest.mark.parametrize(
    ("decision_id", "kind", "values", "is_taken"),
    [
        ("d", "left", {}, True),
        ("", "left", {}, False),
        (None, "left", {}, False),
        (b"d", "left", {}, False),
        ("d", b"left", {}, False),
        ("d", ["left"], {}, False),
        ("d", "gone", {}, False),
        ("d", "clicked", {"seconds": 1, "page": "p"}, True),
        ("d", "clicked", {"seconds": float("inf"), "page": "p"}, False),
        ("d", "clicked", {"seconds": 1, "page": b"p"}, False),
        ("\ud800", "left", {}, False),
    ],
)
def test_feedback_is_judged_alike(
    decision_id: Any,  # noqa: ANN401  # wrong on purpose
    kind: Any,  # noqa: ANN401
    values: dict[str, Any],
    is_taken: bool,
    both: tuple[LoopClient, LoopClient],
    log: MemoryEventLog,
) -> None:
    """A label must not depend on how the feedback came."""
    verdicts = []
    for loop in both:
        call = partial(loop.log_feedback, decision_id, kind, id="f", at=NOW)
        verdicts.append(is_accepted(partial(call, **values)))
    assert verdicts == [is_taken, is_taken]
    assert len(set(told(log))) == is_taken


@pytest.mark.parametrize("items", [[3], [{}], [{"features": FEATURES, "x": 1}], [{"features": 3}]])
def test_a_batch_is_judged_alike(
    items: list[dict[str, object]], both: tuple[LoopClient, LoopClient], log: MemoryEventLog
) -> None:
    """Whatever stands where an item belongs."""
    for loop in both:
        with pytest.raises(RequestError) as caught:
            loop.get_decisions(items)
        assert caught.value.hint
    assert told(log) == []


def test_a_batch_has_all_effects_or_none(
    both: tuple[LoopClient, LoopClient], log: MemoryEventLog
) -> None:
    """Ten good items beside one that cannot be an event: a 400 means that nothing was decided."""
    good = [{"features": FEATURES}] * 10
    for wrong in (
        {"features": {**FEATURES, "country": "x" * 900_001}},
        {"features": FEATURES, "at": datetime(9999, 1, 1, tzinfo=UTC)},
        {"features": FEATURES, "id": "\ud800"},
    ):
        for loop in both:
            with pytest.raises(RequestError):
                loop.get_decisions([*good, wrong])
    assert told(log) == []
