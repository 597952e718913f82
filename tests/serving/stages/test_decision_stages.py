"""Who is in which stage is one hash everywhere, and each stage logs its own propensity."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.schemas.loops import with_items
from tests.serving.decision.test_decider import logged, raising
from tests.serving.decision.test_items import item
from tests.serving.models import FEATURES, banner
from tests.serving.stages.staged import (
    CONTROL,
    SHARE,
    ask,
    preferring,
    served,
    staged_decider,
    staged_loop,
    three_models,
)

from tidemill.errors import RequestError
from tidemill.schemas.assignment import Assignment, stage_of
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.decision.event_log import Event, MemoryEventLog
from tidemill.serving.stages.decision_stages import DecisionStages
from tidemill.serving.stages.served_models import ServedModels

AT = datetime(2026, 1, 2, tzinfo=UTC)
ROWS = 4_000
VERSIONS: dict[str, set[object]] = {"control": {None}, "canary": {"canary-2"}, "live": {"live-1"}}


@given(st.text(min_size=1), st.floats(0.0, 1.0), st.floats(0.0, 0.5))
def test_the_stage_is_that_of_the_shared_hash(unit: str, share: float, control: float) -> None:
    """An analysis that knows the loop file finds the stage that the worker has found."""
    loop = staged_loop(rollout={"control": control})
    assert loop.rollout is not None
    stages = DecisionStages(loop.loop, loop.rollout, loop.salt)
    models = three_models()._replace(share=share)
    try:
        number = Assignment("banner", "stage", "a").number(unit)
    except UnicodeEncodeError:
        return
    stage, model = stages.stage(models, unit)
    assert stage == stage_of(number, control=control, canary=share)
    assert model is {"control": None, "canary": models.canary, "live": models.live}[stage]


def test_decisions_are_divided_by_the_shares_and_each_by_its_own_model() -> None:
    """By chi-square; an answer of one stage with the version of another would spoil both."""
    log = MemoryEventLog()
    maker = staged_decider(log)
    maker.models = three_models()
    for number in range(ROWS):
        ask(maker, number)
    rows = logged(log, "banner.decisions", maker.loop)
    stages = Counter(row["stage"] for row in rows)
    shares = {"control": CONTROL, "canary": SHARE, "live": 1.0 - CONTROL - SHARE}
    expected = [ROWS * share for share in shares.values()]
    assert stats.chisquare([stages[name] for name in shares], expected).pvalue > 1e-4
    number_of = Assignment("banner", "stage", "a").number
    for row in rows:
        unit = number_of(str(row["entity"]))
        assert row["stage"] == stage_of(unit, control=CONTROL, canary=SHARE)
        assert row["model_version"] in VERSIONS[str(row["stage"])]
    counted = maker.counters.stages
    assert {stage for stage, _ in counted} == {*shares}
    assert sum(counted.values()) == ROWS


def test_propensities_are_the_frequencies_within_each_stage() -> None:
    """Estimates weight by them; the control is certain, whatever the policy explores."""
    log = MemoryEventLog()
    maker = staged_decider(log)
    maker.models = three_models()
    for number in range(ROWS):
        ask(maker, number)
    rows = logged(log, "banner.decisions", maker.loop)
    for stage, best in (("canary", "show"), ("live", "hide")):
        mine = [row for row in rows if row["stage"] == stage]
        told = {(row["action"] == best, row["propensity"]) for row in mine}
        assert told == {(True, 0.75), (False, 0.25)}
        hits = sum(row["action"] == best for row in mine)
        assert stats.binomtest(hits, len(mine), 0.75).pvalue > 1e-4
    control = [row for row in rows if row["stage"] == "control"]
    answers = {(row["action"], row["propensity"], row["source"], row["score"]) for row in control}
    assert answers == {("hide", 1.0, "default", None)}


def test_the_baseline_decides_the_control_and_a_canary_that_fails() -> None:
    """A fallback of the canary is one of its stage: its guardrail counts them."""
    log = MemoryEventLog()
    maker = staged_decider(log)
    maker.models = three_models()._replace(canary=served("m-2", raising(ValueError())))
    for number in range(200):
        ask(maker, number, baseline="show")
    rows = logged(log, "banner.decisions", maker.loop)
    told = {(row["action"], row["source"]) for row in rows if row["stage"] == "control"}
    assert told == {("show", "default")}
    told = {(row["action"], row["source"]) for row in rows if row["stage"] == "canary"}
    assert told == {("show", "fallback")}
    assert {row["source"] for row in rows if row["stage"] == "live"} == {"model"}


def test_a_control_without_any_model_does_not_explore() -> None:
    """Its decisions are compared with the others from the first day on."""
    log = MemoryEventLog()
    maker = staged_decider(log)
    for number in range(400):
        ask(maker, number)
    rows = logged(log, "banner.decisions", maker.loop)
    told = {row["source"] for row in rows if row["stage"] == "control"}
    assert told == {"default"}
    assert {row["source"] for row in rows if row["stage"] == "live"} == {"default", "explore"}


def test_the_control_of_a_loop_with_items_is_the_order_of_the_request() -> None:
    """Each item is logged with a propensity that was certain."""
    log, loop = MemoryEventLog(), with_items(rollout={"control": 0.5})
    maker = staged_decider(log, loop)
    asked = {"features": {"country": "at", "visits": 3}, "items": [item("a"), item("b")]}
    for number in range(50):
        maker.decide(maker.decisions.check(**asked, entity=f"user-{number}"))  # type: ignore[arg-type]
    rows = [row for row in logged(log, f"{loop.loop}.decisions", loop) if row["stage"] == "control"]
    assert 0 < len(rows) < 50
    for row in rows:
        items = row["items"]
        assert isinstance(items, list)
        assert (row["action"], row["source"]) == ("a", "default")
        assert [each["propensity"] for each in items] == [1.0, 0.0]


def test_a_decision_without_an_entity_is_assigned_by_its_id_and_counted() -> None:
    """One visitor then sees both; the operator is to know how often."""
    log = MemoryEventLog()
    maker = staged_decider(log)
    maker.models = three_models()
    for number in range(100):
        ask(maker, number, entity=None if number < 60 else "user-1")
    rows = logged(log, "banner.decisions", maker.loop)
    number_of = Assignment("banner", "stage", "a").number
    for row in rows:
        unit = number_of(str(row["entity"] or row["id"]))
        assert row["stage"] == stage_of(unit, control=CONTROL, canary=SHARE)
    assert len({row["stage"] for row in rows[:60]}) == 3
    assert maker.counters.by_id == 60


def test_an_entity_that_is_no_unicode_is_refused() -> None:
    """Like any other text of a request; it must not fail the worker."""
    with pytest.raises(RequestError, match="cannot be written"):
        ask(staged_decider(MemoryEventLog()), 1, entity="\ud800")


def test_a_loop_without_a_rollout_logs_what_it_has_logged() -> None:
    """Negative control: the same models in its slots, and no stage; the bytes are those of live."""
    plain, staged = banner(policy={"kind": "greedy"}), staged_loop(policy={"kind": "greedy"})
    alone = three_models()._replace(canary=None, shadow=None, share=0.0)

    def events(models: ServedModels, loop: Loop) -> list[Event]:
        log = MemoryEventLog()
        maker = staged_decider(log, loop)
        maker.models = models
        for number in range(100):
            ask(maker, number, at=AT)
        return log.events

    assert events(three_models(), plain) == events(alone, plain)
    assert events(three_models(), staged) != events(alone, staged)


def test_decisions_of_a_batch_have_stages_too() -> None:
    """They take another way to the log."""
    log = MemoryEventLog()
    maker = staged_decider(log)
    maker.models = three_models()
    check = maker.decisions.check
    made = [maker.prepare(check(FEATURES, entity=f"user-{n}")) for n in range(300)]
    assert not maker.counters.stages, "nothing is logged yet"
    maker.log_all(made)
    rows = logged(log, "banner.decisions", maker.loop)
    assert {row["stage"] for row in rows} == {"control", "canary", "live"}
    assert sum(maker.counters.stages.values()) == 300


def test_an_apprentice_answers_the_default_in_each_stage() -> None:
    """What its policy had chosen is that of the model of the stage."""
    log = MemoryEventLog()
    loop = staged_loop(learning="apprentice", policy={"kind": "greedy"})
    maker = staged_decider(log, loop)
    maker.models = three_models()
    results = [ask(maker, number) for number in range(300)]
    assert {one.action for one in results} == {"hide"}
    rows = logged(log, "banner.decisions", loop)
    chosen = {str(row["stage"]): row["policy_action"] for row in rows}
    assert chosen == {"control": None, "canary": "show", "live": "hide"}


def test_a_first_model_may_begin_as_a_canary() -> None:
    """The others explore around the default meanwhile."""
    log = MemoryEventLog()
    maker = staged_decider(log)
    maker.models = ServedModels(canary=served("m-1", preferring("show")), share=SHARE)
    for number in range(300):
        ask(maker, number)
    rows = logged(log, "banner.decisions", maker.loop)
    versions = {str(row["stage"]): row["model_version"] for row in rows}
    assert versions == {"control": None, "canary": "m-1", "live": None}
