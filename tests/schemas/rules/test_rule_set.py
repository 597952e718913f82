"""A rule that could not do what it says is refused when it is written."""

import pytest
from pydantic import ValidationError
from tests.schemas.loops import minimal

from tidemill.errors import LoopError
from tidemill.schemas.rules.rule_set import Rule, RuleSet, check_effects, readable

CHOICE = {"type": "choice", "actions": ["beer", "cola", "none"], "default": "none"}
RANKING = {"type": "ranking", "actions": ["a", "b", "c"], "default": ["a", "b", "c"]}
NUMBER = {"type": "float", "default": 1.0}
SECONDS = {"sql": "max(seconds)", "type": "float"}
LOOPS = {
    "bool": minimal(),
    "choice": minimal(decision=CHOICE, policy={"kind": "greedy"}),
    "ranking": minimal(decision=RANKING, policy={"kind": "greedy"}),
    "float": minimal(
        decision=NUMBER, policy={"kind": "value"}, label={"sql": "max(seconds)", "type": "float"}
    ),
}


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"forbid": ["beer"], "replace": "cola"}, "a rule has replace and forbid"),
        ({}, "a rule has no effect"),
        ({"forbid": []}, "at least 1"),
        ({"cap": {}}, "no bound"),
        ({"cap": {"low": 2.0, "high": 1.0}}, "above high"),
        ({"boost": {"action": "beer", "share": 0.0}}, "greater than 0"),
        ({"boost": {"action": "beer", "share": 1.5}}, "less than or equal to 1"),
    ],
)
def test_a_rule_has_one_effect_that_makes_sense(rule: dict[str, object], told: str) -> None:
    """A rule without effect, or with two, is a misunderstanding."""
    with pytest.raises(ValidationError, match=told):
        Rule.model_validate({"name": "r", "when": "true", **rule})


def test_rules_have_names_of_their_own() -> None:
    """Hits are counted by name."""
    rule = {"name": "r", "when": "true", "replace": "beer"}
    with pytest.raises(ValidationError, match="two rules are called r"):
        RuleSet.model_validate({"loop": "shop", "rules": [rule, rule]})


@pytest.mark.parametrize(
    ("kind", "effect", "told"),
    [
        ("choice", {"forbid": ["wine"]}, "'wine' is no action"),
        ("choice", {"replace": "wine"}, "'wine' is no action"),
        ("choice", {"replace": True}, "True is no action"),
        ("choice", {"cap": {"low": 1.0}}, "a choice decision has no cap"),
        ("choice", {"forbid": ["beer", "cola", "none"]}, "forbids every action"),
        ("bool", {"replace": "true"}, "'true' is no action"),
        ("bool", {"forbid": [True, False]}, "forbids every action"),
        ("ranking", {"replace": ["a", "a"]}, "names an action twice"),
        ("ranking", {"replace": []}, "an order is empty"),
        ("ranking", {"replace": ["z"]}, "'z' is no action"),
        ("float", {"forbid": ["a"]}, "a float decision has no forbid"),
        ("float", {"replace": "a"}, "'a' is no action"),
    ],
)
def test_an_effect_is_one_of_the_loops_decisions(
    kind: str, effect: dict[str, object], told: str
) -> None:
    """A service would get an answer that it does not know."""
    rule = Rule.model_validate({"name": "r", "when": "true", **effect})
    with pytest.raises(LoopError) as refused:
        check_effects([rule], LOOPS[kind])
    assert told in refused.value.what
    assert refused.value.hint


@pytest.mark.parametrize(
    ("kind", "effect"),
    [
        ("choice", {"forbid": ["beer"]}),
        ("choice", {"boost": {"action": "beer", "share": 0.1}}),
        ("bool", {"replace": False}),
        ("ranking", {"boost": {"action": "c"}}),
        ("float", {"cap": {"low": 1.0}}),
        ("float", {"replace": 2.0}),
    ],
)
def test_effects_that_fit_are_taken(kind: str, effect: dict[str, object]) -> None:
    """The counterpart: what people need."""
    rule = Rule.model_validate({"name": "r", "when": "true", **effect})
    check_effects([rule], LOOPS[kind])
    assert rule.effect in effect


def test_a_condition_reads_features_action_and_score() -> None:
    """Of a ranking there is no one action."""
    assert {"action", "score"} <= readable(LOOPS["choice"]).keys()
    assert readable(LOOPS["ranking"]).keys() == LOOPS["ranking"].features.keys()


def test_rules_do_not_name_items_of_requests() -> None:
    """They are not known before."""
    loop = minimal(
        decision={"type": "choice", "items": {"features": {"price": "float"}}},
        policy={"kind": "greedy"},
    )
    with pytest.raises(LoopError, match="items of a request"):
        check_effects([], loop)
