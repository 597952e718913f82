"""What a loop may be: an existing value is a legal value."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.schemas.loops import minimal

from tidemill.schemas.loop.definition import Loop, format_duration, parse_duration


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3_660)))
def test_a_duration_survives_being_written(duration: timedelta) -> None:
    """A window that changes by a microsecond on the way would join other feedback."""
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("text", ["", "5", "h", "-5m", "1e3s", "5 weeks", 5, None, "99999999d"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    """A number without a unit means seconds to one person and minutes to the next."""
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


def refused(**changes: object) -> str:
    """Return what is said about the minimal loop with *changes*."""
    with pytest.raises(ValidationError) as caught:
        minimal(**changes)
    return str(caught.value)


CHOICE = {"type": "choice", "actions": ["a", "b"], "default": "a"}
ACTS = {"sql": "count(*) > 0", "depends_on": "action"}
LIGHTGBM = {"batch": {"learner": "lightgbm"}}
POSTERIORS = {"batch": {"learner": "posterior"}}
RANGE = {"kind": "value", "low": -1.0, "high": 1.0}
THREE = {"type": "choice", "actions": ["a", "b", "c"], "default": "a"}
FLOAT = {"type": "float", "default": 1.0}
RANKING = {"type": "ranking", "actions": ["a", "b"], "default": ["b", "a"]}
SHOWN_AT = {
    "shown": {"within": "1m"},
    "clicked": {"within": "1m", "values": {"activated_at": "float"}},
}
SAME_NUMBER = {
    "sold": {"within": "1m", "stream": "x32"},
    "returned": {"within": "1m", "stream": "x100"},
}
NUMBER = {"sql": "max(seconds)", "type": "float"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decision": {"type": "choice", "actions": ["a"], "default": "a"}}, "at least two"),
        ({"decision": {"type": "ranking", "default": []}}, "at least two"),
        ({"decision": {"type": "bool", "actions": ["a", "b"], "default": True}}, "no actions"),
        ({"decision": {**CHOICE, "actions": ["a", "a"]}}, "repeat"),
        ({"decision": {**CHOICE, "default": "c"}}, "take one of a, b"),
        ({"decision": {"type": "bool", "default": "yes"}}, "true or false"),
        ({"decision": {"type": "float", "default": float("nan")}}, "write a number"),
        ({"decision": {**RANKING, "default": ["a", "a"]}}, "each once"),
        ({"decision": FLOAT}, "kind: value"),
        ({"decision": RANKING}, "kind: greedy"),
        ({"decision": THREE}, "kind: greedy"),
        ({"policy": {"kind": "greedy"}}, "kind: threshold"),
        ({"rollout": {"stages": ["live", "canary"]}}, "in this order"),
        ({"rollout": {"stages": ["canary", "canary"]}}, "each once"),
        ({"rollout": {"stages": []}}, "at least 1"),
        ({"rollout": {"control": 0.6}}, "less than or equal to 0.5"),
        ({"rollout": {"canary": {"share": 0.0}}}, "greater than 0"),
        (
            {"rollout": {"stages": ["shadow"]}, "label": ACTS},
            "add the stage canary",
        ),
        ({"policy": {"kind": "threshold", "temperature": 0.2}}, "kind: softmax"),
        ({"policy": {"kind": "threshold", "grid": 5}}, "kind: value"),
        ({"policy": {"kind": "threshold", "width": 2.0}}, "kind: ucb or linucb"),
        ({"decision": THREE, "policy": {"kind": "ucb"}, "models": {"online": {}}}, "online: null"),
        (
            {"decision": THREE, "policy": {"kind": "ucb"}, "models": LIGHTGBM},
            "learner: posterior",
        ),
        (
            {"decision": THREE, "policy": {"kind": "greedy"}, "models": POSTERIORS},
            "learner: lightgbm",
        ),
        (
            {
                "decision": THREE,
                "policy": {"kind": "linucb"},
                "models": {"batch": {"params": {"num_leaves": 7}}},
            },
            "leave them out",
        ),
        ({"policy": {"kind": "threshold", "decay": 5}}, "epsilon: 0.1"),
        ({"decision": FLOAT, "policy": {"kind": "value", "epsilon": 0.1}}, "grid: 11"),
        ({"decision": FLOAT, "policy": {"kind": "value", "grid": 5}}, "from low to high"),
        ({"decision": FLOAT, "policy": {**RANGE, "grid": 5, "spread": 0.1}}, "spread explores"),
        ({"policy": {"kind": "threshold", "threshold": 1.5}}, "from 0 to 1"),
        ({"policy": {"kind": "threshold", "above": True, "below": True}}, "decide nothing"),
        ({"policy": {"kind": "threshold", "above": "a"}}, "true or false"),
        ({"decision": CHOICE, "policy": {"kind": "threshold", "above": "c"}}, "write a or b"),
        ({"decision": FLOAT, "policy": {"kind": "value", "low": 2.0}}, "outside"),
        ({"decision": FLOAT, "policy": {"kind": "value", "low": 2.0, "high": 1.0}}, "swap"),
        ({"gate": {"metric": "mse"}}, "metric: log_loss"),
        ({"label": NUMBER, "gate": {"metric": "log_loss"}}, "metric: mse"),
        ({"models": {"online": {"learner": "linear_regression"}}}, "logistic_regression"),
        (
            {"models": {"online": {"learner": "hoeffding_tree", "seed": 3}}},
            "hoeffding_tree has no seed",
        ),
        (
            {
                "features": {"tags": "categories"},
                "models": {"online": {"learner": "hoeffding_adaptive_tree"}},
            },
            "does not read tags",
        ),
        (
            {
                "label": {"sql": "count(clicked) > 0", "depends_on": "action"},
                "models": {"online": {"learner": "adaptive_random_forest"}},
            },
            "ignores the weights",
        ),
        ({"features": {"action": "category"}}, "call it something else"),
        ({"features": {}}, "at least 1"),
        ({"features": {"a": {"type": "float", "default": "x"}}}, "finite number"),
        ({"features": {"a": {"type": "int", "default": 2**63}}}, "64 bits"),
        ({"features": {"a": {"type": "int", "default": True}}}, "64 bits"),
        ({"features": {"a": {"type": "timestamp", "default": "2013-01-01"}}}, "zone"),
        ({"feedback": {"clicked": {"within": "0s"}}}, "zero"),
        (
            {"feedback": {"clicked": {"within": "1m", "values": {"at": "float"}}}},
            "column of tidemill",
        ),
        ({"feedback": {"sold": {"within": "1m", "stream": "Orders"}}}, "pattern"),
        ({"feedback": {"sold": {"within": "1m", "stream": "rekeyed"}}}, "say solds"),
        ({"feedback": SAME_NUMBER}, "say x100-events"),
        ({"loop": "tidemill"}, "tidemill itself"),
        ({"activation": "shwon"}, "shwon: {within: 1h}"),
        ({"activation": "clicked"}, "only kind of feedback"),
        ({"activation": "shown", "feedback": SHOWN_AT}, "column of tidemill"),
        ({"idle_after": "0s"}, "zero"),
        ({"partitions": True}, "valid integer"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], said: str) -> None:
    """Found here it costs a second; found in a running loop it costs the data of a week."""
    assert said in refused(**changes)


def test_two_kinds_share_one_namespace_of_values() -> None:
    """The label reads a value by its name alone, so the name has one type."""
    kinds = {
        "clicked": {"within": "1m", "values": {"worth": "float"}},
        "bought": {"within": "1d", "values": {"worth": "category"}},
    }
    assert "bought_worth" in refused(feedback=kinds)


def test_the_sides_of_a_threshold_follow_from_the_default() -> None:
    """Nobody should have to say that the default is what is done below the threshold."""
    assert (minimal().policy.above, minimal().policy.below) == (True, False)
    chosen = minimal(decision=CHOICE, policy={"kind": "threshold"}).policy
    assert (chosen.above, chosen.below) == ("b", "a")
    other = minimal(decision=CHOICE, policy={"kind": "threshold", "above": "a"}).policy
    assert (other.above, other.below) == ("a", "b")


def test_metric_and_online_learner_follow_from_the_label() -> None:
    """A number is judged by squared error; log loss would refuse every model."""
    loop = minimal(label=NUMBER, models={"online": {}})
    assert loop.gate.metric == "mse"
    assert loop.models.online is not None
    assert loop.models.online.learner == "linear_regression"


def test_the_digest_sees_every_change_and_nothing_else() -> None:
    """Two workers compare definitions by their digest."""
    loop = minimal()
    assert loop.digest == Loop.model_validate(loop.model_dump(mode="json")).digest
    assert loop.digest != minimal(grace="2m").digest


def test_settings_of_later_releases_are_told_only_where_they_are_used() -> None:
    """What was published must stay equal to itself, and readable by the release before."""
    shown = {"shown": {"within": "1m"}, "clicked": {"within": "30m"}}
    assert "activation" not in minimal().canonical
    assert "stream" not in minimal().canonical
    online = minimal(models={"online": {"learner": "logistic_regression"}}).canonical
    assert "hash_buckets" not in online
    assert "tau" not in online
    forest = {"learner": "adaptive_random_forest", "n_models": 3, "tau": 0.05}
    grown = minimal(models={"online": forest})
    assert '"n_models":3' in grown.canonical
    assert "tau" not in grown.canonical
    assert Loop.model_validate_json(grown.canonical) == grown
    apart = minimal(feedback={**shown, "sold": {"within": "1d", "stream": "orders"}})
    assert apart.canonical.count('"stream":"orders"') == apart.canonical.count("stream") == 1
    assert Loop.model_validate_json(apart.canonical) == apart
    assert '"activation":"shown"' in minimal(feedback=shown, activation="shown").canonical


def test_the_logs_of_a_loop_are_those_its_kinds_are_in() -> None:
    """The join reads each of them, and waits for no topic that nobody produces to."""
    orders = {"within": "7d", "stream": "orders"}
    kinds = {"bought": orders, "clicked": {"within": "1m"}, "returned": orders}
    assert minimal().logs == ("decisions", "feedback")
    assert minimal(feedback=kinds).logs == ("decisions", "feedback.orders", "feedback")
    assert minimal(feedback={"bought": orders}).logs == ("decisions", "feedback.orders")


def test_a_candidate_that_is_only_a_shadow_can_be_judged_by_a_label_of_the_world() -> None:
    """A flight is late whatever is said: the shadow's forecast is right or wrong without acting."""
    loop = minimal(rollout={"stages": ["shadow"]})
    assert loop.rollout is not None
    assert loop.rollout.stages == ["shadow"]


def test_a_loop_without_a_rollout_is_what_it_was() -> None:
    """Published loops stay equal to themselves, and older releases read them."""
    assert "rollout" not in minimal().canonical
    assert "rollout" in minimal(rollout={}).canonical
