"""Rules change what is done, and the logged propensity is how often that happens."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.loops import minimal

from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.rules.rule_file import record_of
from tidemill.schemas.rules.rule_set import RuleSet
from tidemill.serving.policies.applied_rules import Rules
from tidemill.serving.policies.choice import Choice, Features, LiveModel
from tidemill.serving.policies.policies import policy_of

ACTIONS = ["beer", "cola", "water"]
CHOICE = {"type": "choice", "actions": ACTIONS, "default": "water"}
RANKING = {"type": "ranking", "actions": ACTIONS, "default": ["water", "cola", "beer"]}
NUMBER = {"type": "float", "default": 1.0}
SECONDS = {"sql": "max(seconds)", "type": "float"}
ADULT, MINOR = (40, "CH"), (16, "CH")
SCORES = {"beer": 0.9, "cola": 0.6, "water": 0.3}
MODEL = LiveModel("m-1", lambda features: SCORES.get(str(features[-1]), 0.7))
NO_BEER = {"name": "no-beer", "when": "age < 18", "forbid": ["beer"]}
COLA_WEEK = {
    "name": "cola-week",
    "when": "country = 'CH'",
    "boost": {"action": "cola", "share": 0.25},
}
SURE_ONLY = {"name": "sure-only", "when": "score < 0.5", "replace": "beer"}
NOT_WATER = {"name": "not-water", "when": "action = 'water'", "replace": "cola"}


def loop(**changes: object) -> Loop:
    """Return a loop that knows the age and the country."""
    features = {"age": "int", "country": "category"}
    plain: dict[str, object] = {"decision": CHOICE, "policy": {"kind": "greedy", "epsilon": 0.3}}
    return minimal(features=features, **{**plain, **changes})


def ruled(of: Loop, *rules: Mapping[str, object]) -> Rules:
    """Return *rules* in force."""
    written = RuleSet.model_validate({"loop": of.loop, "rules": list(rules)})
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Rules(record_of(written, of, version=2, at=at, who="ann", why="a test"), of)


def decided(
    of: Loop, rules: Rules, features: Features, number: int, model: LiveModel | None = MODEL
) -> Choice:
    """Return one decision after the rules."""
    policy, key = policy_of(of), f"d-{number}".encode()
    default = of.decision.default
    if model is None:
        choice = policy.without_model(default, key)[0]
    else:
        choice = policy.choose(model, features, key)
    return rules.apply(choice, model, features, default, key)


LOOP = loop()
BEER_LOOP = loop(decision={**CHOICE, "default": "beer"})
NONE, LAW = ruled(LOOP), ruled(LOOP, NO_BEER)
POLICIES = [
    {"kind": "greedy", "epsilon": 0.3},
    {"kind": "softmax", "temperature": 0.5, "epsilon": 0.1},
    {"kind": "greedy", "epsilon": 0.0},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda policy: f"{policy['kind']}-{policy['epsilon']}"
)
@pytest.mark.parametrize("model", [MODEL, None], ids=["model", "none"])
@pytest.mark.parametrize("features", [ADULT, MINOR], ids=["adult", "minor"])
def test_logged_propensities_are_realised_frequencies(
    policy: dict[str, object], model: LiveModel | None, features: Features
) -> None:
    """An estimate by propensities is right only if they are: chi-square over many decisions."""
    of = loop(policy=policy)
    rules = ruled(of, NO_BEER, COLA_WEEK, NOT_WATER, SURE_ONLY)
    count = 5_000
    made = [decided(of, rules, features, number, model) for number in range(count)]
    told: dict[str, float] = {}
    for action, _score, propensity, _ in made:
        assert told.setdefault(str(action), propensity or 0.0) == propensity, "one for each action"
    seen = Counter(str(action) for action, *_ in made)
    assert sum(told.values()) == pytest.approx(1.0)
    expected = {action: count * chance for action, chance in told.items()}
    statistic = sum((seen[action] - each) ** 2 / each for action, each in expected.items())
    assert statistic < 20.0, (seen, told)


@given(st.integers(0, 10**9), st.sampled_from([MODEL, None]))
def test_a_decision_that_no_rule_can_touch_is_the_policys(
    number: int, model: LiveModel | None
) -> None:
    """A rule for minors costs adults nothing, not even the last bit of a propensity."""
    with_rules = decided(LOOP, LAW, ADULT, number, model)
    assert with_rules == decided(LOOP, NONE, ADULT, number, model)


@given(st.integers(0, 10**9), st.sampled_from([MODEL, None]))
def test_what_is_forbidden_is_never_done(number: int, model: LiveModel | None) -> None:
    """Not by the model, not by exploration, and not by the default."""
    action, *_ = decided(BEER_LOOP, LAW, MINOR, number, model)
    assert action in ("cola", "water")


def test_a_forbidden_action_becomes_the_default() -> None:
    """Its propensity is that of both."""
    of = loop()
    action, score, propensity, _ = decided(of, ruled(of, NO_BEER), MINOR, 3)
    assert (action, score) == ("water", 0.3)
    assert propensity == pytest.approx(0.8 + 0.1)


def test_rules_apply_in_their_order() -> None:
    """The second one sees what the first one has left."""
    of = loop(policy={"kind": "greedy"})
    first = ruled(of, NO_BEER, NOT_WATER)
    second = ruled(of, NOT_WATER, NO_BEER)
    assert decided(of, first, MINOR, 1)[0] == "cola"
    assert decided(of, second, MINOR, 1)[0] == "water"
    assert first.hits == {"no-beer": 1, "not-water": 1}
    assert second.hits == {"not-water": 0, "no-beer": 1}


def test_a_condition_on_null_does_not_hold() -> None:
    """A default has no score."""
    of = loop(policy={"kind": "greedy"})
    assert decided(of, ruled(of, SURE_ONLY), ADULT, 1, None)[0] == "water"


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        ({"forbid": ["beer"]}, ["cola", "water"]),
        ({"boost": {"action": "water"}}, ["water", "beer", "cola"]),
        ({"replace": ["cola"]}, ["cola"]),
    ],
)
def test_an_order_is_changed(rule: dict[str, object], order: list[str]) -> None:
    """How likely it was cannot be said, and is not."""
    of = loop(decision=RANKING, policy={"kind": "greedy", "epsilon": 0.2})
    number = next(
        number for number in range(100) if decided(of, ruled(of), ADULT, number)[0] == ACTIONS
    )
    rules = ruled(of, {"name": "r", "when": "age > 30", **rule})
    assert decided(of, rules, ADULT, number) == (order, 0.9, None, None)
    assert decided(of, rules, MINOR, number)[2] is not None, "the rule does not hold"


@pytest.mark.parametrize(
    ("policy", "score", "expected"),
    [
        ({"kind": "value"}, 9.0, (5.0, None)),
        ({"kind": "value"}, 4.0, (4.0, None)),
        ({"kind": "value", "low": 0.0, "high": 10.0, "grid": 11}, 9.0, (5.0, 1.0)),
    ],
)
def test_a_number_is_capped(
    policy: dict[str, object], score: float, expected: tuple[float, float | None]
) -> None:
    """Of a grid the propensity is that of all points beyond the bound."""
    of = loop(decision=NUMBER, policy=policy, label=SECONDS)
    rules = ruled(of, {"name": "r", "when": "country = 'CH'", "cap": {"low": 0.5, "high": 5.0}})
    model = LiveModel("m-1", lambda _features: score)
    action, found, propensity, _ = decided(of, rules, ADULT, 1, model)
    assert (action, propensity) == expected
    assert found is not None


def test_a_number_around_the_score_keeps_its_density_inside_the_cap() -> None:
    """Only what was moved to a bound has none."""
    policy = {"kind": "value", "low": 0.0, "high": 10.0, "spread": 2.0}
    of = loop(decision=NUMBER, policy=policy, label=SECONDS)
    cap = ruled(of, {"name": "r", "when": "true", "cap": {"high": 5.0}})
    model = LiveModel("m-1", lambda _features: 4.0)
    for number in range(50):
        free = decided(of, ruled(of), ADULT, number, model)
        action, _, density, _ = decided(of, cap, ADULT, number, model)
        assert isinstance(free[0], float)
        assert (action, density) == ((free[0], free[2]) if free[0] <= 5.0 else (5.0, None))
