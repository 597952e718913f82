"""A model is given up for what it does again and again, and not for one bad moment."""

from time import perf_counter

from tests.serving.decision.test_decider import slow
from tests.serving.models import FEATURES
from tests.serving.stages.staged import (
    preferring,
    served,
    staged_decider,
    staged_loop,
    three_models,
)

from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.stages.served_models import FAILURES, REST_S, RESTS, FailureStreak


def test_a_model_rests_after_three_failures_and_is_given_up_at_its_third_rest() -> None:
    """One slow decision may be due to the machine; nine, two seconds apart, are not."""
    streak, now_s, told = FailureStreak(), 100.0, []
    for _ in range(FAILURES * RESTS):
        if now_s < streak.rest_until_s:
            assert streak.rest_until_s == now_s + REST_S
            now_s = streak.rest_until_s
        told.append(streak.add(now_s))
    assert told == [False] * 8 + [True]
    assert now_s == 100.0 + (RESTS - 1) * REST_S


def test_one_stop_of_the_machine_is_one_rest_at_most() -> None:
    """A hundred threads that were all frozen say nothing about the model."""
    streak = FailureStreak()
    told = [streak.add(100.0) for _ in range(100)]
    assert told == [False] * 100
    assert streak.failures == FAILURES


def test_a_slot_is_swapped_without_the_others() -> None:
    """A canary that ends takes its share with it."""
    models, other = three_models(), served("m-4", preferring("show"))
    assert models.with_model("live", other)._replace(live=models.live) == models
    assert models.with_model("shadow", other)._replace(shadow=models.shadow) == models
    assert models.with_model("canary", other, 0.5).share == 0.5
    ended = models.with_model("canary", None, 0.5)
    assert (ended.canary, ended.share) == (None, 0.0)
    assert list(ended.by_slot()) == ["live", "shadow"]


def test_a_model_is_blamed_for_its_own_time_alone() -> None:
    """Under load requests wait; the model that was called last is not the slow one."""
    maker = staged_decider(MemoryEventLog(), staged_loop(rollout=None, budget_ms=200.0))
    maker.models = three_models()._replace(live=served("m", slow(0.02)))
    streak = maker.models.live.streak  # type: ignore[union-attr]  # it was just given
    request = maker.decisions.check(FEATURES)
    for _ in range(5):
        assert maker.decide(request, perf_counter() - 0.19).source == "fallback"
    assert streak.failures == 0
