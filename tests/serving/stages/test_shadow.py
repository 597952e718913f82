"""A shadow is never seen: not in an answer, not in an event, not in the time of either."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from tests.serving.decision.test_decider import raising, slow
from tests.serving.models import FEATURES
from tests.serving.stages.staged import (
    ask,
    preferring,
    served,
    staged_decider,
    staged_loop,
    three_models,
)

from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import Event, MemoryEventLog
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.choice import Features, ScoreFunction
from tidemill.serving.stages.served_models import ServedModel
from tidemill.serving.stages.shadow_thread import ShadowThread

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def shadows() -> Iterator[ShadowThread]:
    """The thread of the shadow."""
    thread = ShadowThread()
    yield thread
    thread.close()


def made_with(
    shadow: ServedModel | None, shadows: ShadowThread
) -> tuple[Decider, list[DecisionResult], list[Event]]:
    """Return a decider, and its answers and events of a hundred decisions and a batch of them."""
    log = MemoryEventLog()
    maker = staged_decider(log, shadows=shadows)
    maker.models = three_models()._replace(shadow=shadow)
    results = [ask(maker, number, at=AT) for number in range(100)]
    check = maker.decisions.check
    batch = [check(FEATURES, f"user-{n}", id=f"b-{n}", at=AT) for n in range(100)]
    results += maker.log_all([maker.prepare(one) for one in batch])
    assert shadows.drain()
    return maker, results, log.events


SHADOWS: dict[str, Callable[[], ServedModel]] = {
    "another": lambda: served("s", preferring("show")),
    "failing": lambda: served("s", raising(ZeroDivisionError())),
    "broken": lambda: served("s", raising(AssertionError("not an error of models"))),
    "nan": lambda: served("s", lambda _: float("nan")),
}


@pytest.mark.parametrize("kind", SHADOWS)
def test_answers_and_events_are_bit_identical_with_a_shadow(
    kind: str, shadows: ShadowThread
) -> None:
    """Whatever it does; else nobody would dare to look at a model in production."""
    _, answers, events = made_with(None, shadows)
    maker, with_shadow, events_with = made_with(SHADOWS[kind](), shadows)
    assert with_shadow == answers
    assert events_with == events
    counted = maker.counters.shadow
    assert counted.scored + counted.failed + counted.skipped == 200
    assert (maker.counters.failed, maker.counters.over_budget) == (0, 0)
    assert (counted.scored == 200) == (kind == "another")


def test_the_shadow_counts_what_it_would_have_answered_otherwise(shadows: ShadowThread) -> None:
    """By the chance of the same decision, so that exploration makes no difference of its own."""
    alike = served("s", preferring("show"))
    maker, answers, _ = made_with(alike, shadows)
    alone = staged_decider(MemoryEventLog(), staged_loop(rollout={}))
    alone.models = alone.models.with_model("live", alike)
    own = [ask(alone, number) for number in range(100)]
    own += [ask(alone, number, id=f"b-{number}") for number in range(100)]
    differing = sum(one.action != other.action for one, other in zip(answers, own, strict=True))
    counted = maker.counters.shadow
    assert counted.differing == differing > 0
    assert counted.took_s > 0.0


def test_no_answer_waits_for_the_shadow(shadows: ShadowThread) -> None:
    """It is stopped in the middle of a score, and decisions go on."""
    begun, free = threading.Event(), threading.Event()

    def waiting(_features: Features) -> float:
        begun.set()
        free.wait()
        return 0.5

    log = MemoryEventLog()
    maker = staged_decider(log, shadows=shadows)
    maker.models = three_models()._replace(shadow=served("s", waiting))
    ask(maker, 0)
    begun.wait()
    for number in range(1, 1_500):
        ask(maker, number)
    assert len(log.events) == 1_500
    assert maker.counters.shadow.skipped == 1_499 - 1_000
    free.set()
    assert shadows.drain()


@pytest.mark.parametrize("score", [raising(ValueError("broken")), slow(0.003)])
def test_a_shadow_that_fails_rests_and_is_given_up(
    score: ScoreFunction, shadows: ShadowThread
) -> None:
    """At its third rest, as a live model would be; without a rest it takes nine decisions."""
    told: list[tuple[str, str]] = []
    maker = staged_decider(MemoryEventLog(), staged_loop(budget_ms=1.0), shadows)
    maker.on_failing = lambda failing, why: told.append((failing.model.version, why))
    maker.models = three_models()._replace(shadow=served("s", score))
    for number in range(8):
        ask(maker, number)
        assert shadows.drain()
    assert told == []
    ask(maker, 8)
    assert shadows.drain()
    ((version, why),) = told
    assert version == "s"
    assert "broken" in why or "took" in why
    resting = three_models()._replace(shadow=served("s", score, rest_s=600.0))
    maker.models = resting
    before = maker.counters.shadow.failed
    for number in range(50):
        ask(maker, number)
        assert shadows.drain()
    assert maker.counters.shadow.failed == before + 3
    assert maker.counters.shadow.skipped == 47


def test_without_a_rollout_nothing_scores_in_the_shadow(shadows: ShadowThread) -> None:
    """Negative control: what stands in the slot does not matter then."""
    maker = staged_decider(MemoryEventLog(), staged_loop(rollout=None), shadows)
    maker.models = three_models()
    for number in range(10):
        ask(maker, number)
    assert shadows.drain()
    assert maker.counters.shadow.scored == 0
