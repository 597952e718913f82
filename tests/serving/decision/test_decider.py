"""A decision never waits and never fails, and every one is logged as it was made."""

import time
from datetime import UTC, datetime

import pytest
from tests.serving.models import FEATURES, NULLABLE, SIGNATURE, banner, booster, text

from tidemill.errors import BrokerError, ModelError, RequestError
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import register
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.decision.requests import FeedbackRequest
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.model.predictor import LightGbmModel
from tidemill.serving.policies.choice import Features, LiveModel, ScoreFunction

Rows = list[dict[str, object]]


def decider(loop: Loop | None = None, log: MemoryEventLog | None = None) -> Decider:
    """Return a decider with a store and a log in memory."""
    log = MemoryEventLog() if log is None else log
    return Decider(loop or banner(), store=MemorySchemaStore(), log=log)


def decide(maker: Decider, **more: object) -> DecisionResult:
    """Decide about the usual features."""
    return maker.decide(maker.decisions.check(FEATURES, **more))  # type: ignore[arg-type]


def logged(log: MemoryEventLog, topic: str, loop: Loop | None = None) -> Rows:
    """Return the events of *topic* as a streams worker would read them."""
    store = MemorySchemaStore()
    register(loop or banner(), store)
    reader = EventDecoder(
        loop or banner(), DECISIONS if topic.endswith(".decisions") else FEEDBACK, store
    )
    found = reader.decode([event.value for event in log.events if event.topic == topic])
    assert not found.poison
    return found.frame.to_dicts()


def raising(error: Exception) -> ScoreFunction:
    """Return scores of a model that fails."""

    def score(_features: Features) -> float:
        raise error

    return score


def slow(seconds: float) -> ScoreFunction:
    """Return scores of a model that takes its time."""

    def score(_features: Features) -> float:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        return 0.9

    return score


def test_without_a_model_the_default_answers() -> None:
    """The service is written before the first model is trained."""
    result = decide(decider())
    assert (result.action, result.source, result.model_version) == ("hide", "default", None)
    assert (result.score, result.propensity) == (None, 1.0)


def test_with_a_model_its_score_decides() -> None:
    """The score that is logged has the bits the trainer would compute."""
    maker = decider()
    model = LightGbmModel(text(), len(SIGNATURE.columns))
    maker.model = LiveModel("lightgbm-1", model.scorer(SIGNATURE, NULLABLE))
    result = decide(maker)
    row = SIGNATURE.encode_row({**FEATURES, "age": 30.0})
    assert result.score == booster().predict([row], num_threads=1)[0]
    assert result.score is not None
    assert result.action == ("show" if result.score >= 0.5 else "hide")
    assert (result.source, result.model_version) == ("model", "lightgbm-1")


def test_a_decision_is_logged_as_it_was_answered() -> None:
    """The lake must hold what the service was told, with the features the model saw."""
    log = MemoryEventLog()
    maker = decider(log=log)
    maker.model = LiveModel("m-7", lambda _: 0.75)
    at = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    result = decide(maker, entity="user-9", id="my-id", at=at)
    (row,) = logged(log, "banner.decisions")
    assert log.events[0].key == b"my-id"
    assert row["features"] == {**FEATURES, "seen": None, "tags": None, "age": 30.0}
    told = {name: getattr(result, name) for name in result.__struct_fields__}
    assert {name: row[name] for name in told} == told
    assert (row["at"], row["entity"]) == (at, "user-9")


def test_ids_are_distinct_and_sort_by_time() -> None:
    """Two services that make ids at once must not meet."""
    maker = decider()
    ids = [decide(maker).id for _ in range(2_000)]
    assert len(set(ids)) == len(ids)
    assert [name[:12] for name in ids] == sorted(name[:12] for name in ids)


@pytest.mark.parametrize(
    "error",
    [
        ModelError("broken", hint="-"),
        ZeroDivisionError(),
        KeyError("x"),
        TypeError(),
        ValueError(),
        OverflowError(),
    ],
)
def test_a_model_that_fails_falls_back(error: Exception) -> None:
    """The service gets an answer; the operator gets a count and the reason."""
    log = MemoryEventLog()
    maker = decider(log=log)
    maker.model = LiveModel("m-1", raising(error))
    result = decide(maker)
    assert (result.action, result.source, result.model_version) == ("hide", "fallback", None)
    assert logged(log, "banner.decisions")[0]["source"] == "fallback"
    assert maker.counters.failed == 1
    assert maker.last_failure is not None
    assert "m-1" in maker.last_failure


def test_a_score_that_is_no_number_falls_back() -> None:
    """NaN would otherwise be below every threshold, silently."""
    maker = decider()
    maker.model = LiveModel("m-1", lambda _: float("nan"))
    assert decide(maker).source == "fallback"


def test_a_model_over_budget_falls_back() -> None:
    """An answer that comes too late is marked, so that nobody learns from it as the model's."""
    maker = decider(banner(budget_ms=1.0))
    maker.model = LiveModel("m-1", slow(0.003))
    assert decide(maker).source == "fallback"
    assert maker.counters.over_budget == 1


def test_a_model_that_is_slow_again_and_again_is_not_asked_for_a_while() -> None:
    """Waiting out the budget for nothing, decision by decision, would be waiting all the same."""
    maker = decider(banner(budget_ms=1.0))
    calls = []

    def score(features: Features) -> float:
        calls.append(features)
        return slow(0.003)(features)

    maker.model = LiveModel("m-1", score)
    assert {decide(maker).source for _ in range(50)} == {"fallback"}
    assert len(calls) == 3
    assert maker.counters.over_budget == 50


def test_a_request_that_waited_too_long_is_not_scored() -> None:
    """Under overload the queue before the worker has used the budget up already."""
    maker = decider(banner(budget_ms=1.0))
    maker.model = LiveModel("m-1", raising(AssertionError("asked")))
    request = maker.decisions.check(FEATURES)
    result = maker.decide(request, time.perf_counter() - 0.002)
    assert result.source == "fallback"


def test_a_full_buffer_drops_the_event_and_not_the_decision() -> None:
    """Kafka may be away for an hour; the shop goes on."""
    log = MemoryEventLog(capacity=2)
    maker = decider(log=log)
    assert [decide(maker).action for _ in range(5)] == ["hide"] * 5
    assert (len(log.events), log.dropped) == (2, 3)


def test_feedback_that_has_no_room_is_not_taken() -> None:
    """Unlike a decision it can be sent again, so the service is told."""
    maker = decider(log=MemoryEventLog(capacity=0))
    with pytest.raises(BrokerError, match="was not logged"):
        maker.take_feedback(FeedbackRequest("d", "left", {}))
    assert maker.counters.feedback == 0


def test_feedback_is_logged_under_its_decision() -> None:
    """The join reads both from the partition of the decision's id."""
    log = MemoryEventLog()
    maker = decider(log=log)
    given = maker.feedback.check("d-1", "clicked", {"seconds": 2.5, "page": "home"})
    feedback_id = maker.take_feedback(given)
    (row,) = logged(log, "banner.feedback")
    assert log.events[0].key == b"d-1"
    assert (row["id"], row["decision_id"], row["kind"]) == (feedback_id, "d-1", "clicked")
    assert row["values"] == {"seconds": 2.5, "page": "home"}


def test_feedback_goes_to_the_topic_of_its_kind() -> None:
    """The service names the kind and no more; which team's topic that is, the loop knows."""
    kinds = {"left": {"within": "30m"}, "bought": {"within": "7d", "stream": "orders"}}
    loop, log = banner(feedback=kinds, label={"sql": "count(*) > 0"}), MemoryEventLog()
    maker = decider(loop, log)
    for kind in ("bought", "left", "bought"):
        maker.take_feedback(maker.feedback.check("d-1", kind, {}))
    topics = ["banner.feedback.orders", "banner.feedback", "banner.feedback.orders"]
    assert [event.topic for event in log.events] == topics
    assert {event.key for event in log.events} == {b"d-1"}
    assert [row["kind"] for row in logged(log, topics[0], loop)] == ["bought", "bought"]


def test_text_that_is_not_unicode_is_refused() -> None:
    """A lone surrogate cannot be written to Kafka, nor read by another language."""
    maker = decider()
    with pytest.raises(RequestError):
        maker.decide(maker.decisions.check({**FEATURES, "country": "\ud800"}))
    with pytest.raises(RequestError):
        decide(maker, id="\ud800")


def test_an_event_too_large_for_kafka_is_refused() -> None:
    """The client of Kafka would refuse it later, when nobody is there to be told."""
    maker = decider()
    with pytest.raises(RequestError, match="over 900000"):
        maker.decide(maker.decisions.check({**FEATURES, "country": "x" * 900_001}))


def test_a_retry_of_an_id_gets_the_same_answer() -> None:
    """A service whose call timed out asks again; its user must not see another page."""
    loop = banner(policy={"kind": "greedy", "epsilon": 0.5})

    def actions() -> list[object]:
        maker = decider(loop)
        maker.model = LiveModel("m-1", lambda features: float(features[-1] == "show"))
        return [decide(maker, id=f"d-{number}").action for number in range(100)]

    first = actions()
    assert first == actions()
    assert {"show", "hide"} == set(first)


def test_exploration_begins_with_the_first_decision() -> None:
    """Whatever is never tried is never learned: a first model needs rows of every action."""
    log, loop = MemoryEventLog(), banner(policy={"kind": "greedy", "epsilon": 0.5})
    maker = decider(loop, log)
    results = [decide(maker, id=f"d-{number}") for number in range(200)]
    assert {(one.action, one.propensity) for one in results} == {("hide", 0.75), ("show", 0.25)}
    assert {one.source for one in results} == {"default", "explore"}
    assert all(one.action == "hide" for one in results if one.source == "default")
    rows = logged(log, "banner.decisions", loop)
    assert [row["source"] for row in rows] == [one.source for one in results]
    assert maker.counters.decisions["explore"] == sum(one.source == "explore" for one in results)


def test_a_fallback_is_not_explored() -> None:
    """It is no choice of the policy, so its row must not look like one."""
    maker = decider(banner(policy={"kind": "greedy", "epsilon": 1.0}))
    maker.model = LiveModel("m-1", raising(ValueError()))
    results = [decide(maker, id=f"d-{number}") for number in range(50)]
    assert {(one.action, one.source) for one in results} == {("hide", "fallback")}


def test_a_baseline_is_logged_and_is_the_default_of_its_decision() -> None:
    """What the service would have done is what the loop has to beat."""
    log = MemoryEventLog()
    maker = decider(log=log)
    result = decide(maker, baseline="show")
    assert (result.action, result.source, result.propensity) == ("show", "default", 1.0)
    maker.model = LiveModel("m-1", raising(ValueError()))
    assert decide(maker, baseline="show").action == "show", "a fallback answers it too"
    maker.model = LiveModel("m-1", lambda _: 0.1)
    assert decide(maker, baseline="show").action == "hide", "a model decides"
    decide(maker)
    rows = logged(log, "banner.decisions")
    assert [row["baseline"] for row in rows] == ["show", "show", "show", None]


def test_an_apprentice_answers_the_baseline_and_logs_what_it_would_have_done() -> None:
    """A team sees what it would gain before it hands anything over."""
    log = MemoryEventLog()
    loop = banner(learning="apprentice", policy={"kind": "greedy", "epsilon": 0.5})
    maker = decider(loop, log)
    assert {decide(maker, id=f"d-{number}").action for number in range(50)} == {"hide"}
    maker.model = LiveModel("m-1", lambda features: float(features[-1] == "show"))
    results = [decide(maker, id=f"d-{number}", baseline="hide") for number in range(50)]
    assert {(one.action, one.propensity, one.source) for one in results} == {
        ("hide", 1.0, "default")
    }
    assert {one.policy_action for one in results} == {"show", "hide"}
    assert {one.model_version for one in results} == {"m-1"}
    rows = logged(log, "banner.decisions", loop)[50:]
    assert [row["policy_action"] for row in rows] == [one.policy_action for one in results]
    maker.model = LiveModel("m-2", raising(ValueError()))
    fallen = decide(maker, baseline="show")
    assert (fallen.action, fallen.source, fallen.policy_action) == ("show", "fallback", None)


def test_the_positions_of_a_ranking_are_logged() -> None:
    """Estimates by position need the probability of each."""
    log = MemoryEventLog()
    loop = banner(
        decision={"type": "ranking", "actions": ["a", "b", "c"], "default": ["a", "b", "c"]},
        policy={"kind": "softmax"},
    )
    maker = decider(loop, log)
    maker.model = LiveModel("m-1", lambda features: float(features[-1] == "c") / 10)
    result = decide(maker)
    (row,) = logged(log, "banner.decisions", loop)
    assert row["propensities"] == result.propensities
    assert result.propensities is not None
    assert len(result.propensities) == 3
