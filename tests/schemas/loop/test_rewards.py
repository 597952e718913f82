"""What a decision is worth: SQL over label and action, and what is refused of it."""

import math
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import compile_reward
from tidemill.schemas.loop.loop_file import parse_loop

SHOP = """
loop: shop
decision: {type: choice, actions: [coupon, none], default: none}
features: {basket: float}
feedback: {bought: {within: 1h, values: {amount: float}}}
label: {sql: count(*) > 0}
policy: {kind: greedy, epsilon: 0.1}
"""


def shop(reward: str, text: str = SHOP) -> Loop:
    """Return a loop whose gate has this reward."""
    return parse_loop(text + "gate:\n  reward: |\n    " + reward + "\n")


def test_a_reward_is_computed_row_by_row() -> None:
    """A coupon that sells nothing more costs its tenth."""
    query = compile_reward(shop("label - case when ACTION = 'coupon' then 0.1 else 0 end"))
    assert query is not None
    action = pl.Series(["coupon", "none", "coupon"])
    assert query.of(np.array([1.0, 1.0, 0.0]), action).tolist() == [0.9, 1.0, -0.1]


def test_rows_keep_their_order() -> None:
    """Rewards of other rows would judge another policy."""
    query = compile_reward(shop("label * 2"))
    assert query is not None
    label = np.random.default_rng(1).normal(size=200_000)
    assert np.array_equal(query.of(label, pl.Series(["none"] * label.size)), label * 2)


def test_a_loop_without_a_reward_has_the_default_of_its_policy() -> None:
    """Nothing to compile, and a definition published before has the digest it had."""
    loop = parse_loop(SHOP)
    assert compile_reward(loop) is None
    assert "reward" not in loop.canonical
    assert "depends_on" not in loop.canonical
    assert Loop.model_validate_json(shop("label").canonical) == shop("label")


@pytest.mark.parametrize(
    ("sql", "what", "hint"),
    [
        ("sum(label)", "aggregate sum", "in the label"),
        ("basket", "reads 'basket'", "label and action"),
        ("(select 1)", "a subquery", "one expression"),
        ("random()", "uses random", "plain arithmetic"),
        ("label, 2", "more than one expression", "without select"),
        ("label +", "not SQL", "one expression"),
        ("label > 0", "type BOOLEAN", "case when"),
        ("action", "does not work|type VARCHAR", "number"),
        ("case when action = 'coupon' then label end", "no number for the action 'none'", "else"),
        ("ln(label)", "no number for the action 'coupon' and the label 0", "error for 0"),
    ],
)
def test_a_wrong_reward_is_refused_with_a_hint(sql: str, what: str, hint: str) -> None:
    """A reward that judges by something else promotes for the wrong reason."""
    with pytest.raises(LoopError, match=what) as error:
        compile_reward(shop(sql))
    assert hint in error.value.hint


def test_a_label_that_is_a_number_may_make_a_reward_unknown() -> None:
    """Nobody knows all labels before; where it is an error, the reward is none."""
    text = SHOP.replace("count(*) > 0}", "max(amount), type: float}")
    query = compile_reward(shop("ln(label)", text))
    assert query is not None
    found = query.of(np.array([1.0, -1.0]), pl.Series(["none", "none"]))
    assert found[0] == 0.0
    assert math.isnan(found[1])


@pytest.mark.parametrize(
    ("change", "depends_on"),
    [
        (lambda text: text, "action"),
        (lambda text: text.replace("{kind: greedy, epsilon: 0.1}", "{kind: threshold}"), "world"),
        (
            lambda text: text.replace("{kind: greedy, epsilon: 0.1}", "{kind: threshold}").replace(
                "feedback: {", "activation: shown\nfeedback: {shown: {within: 1h}, "
            ),
            "action",
        ),
        (
            lambda text: text.replace("{kind: greedy, epsilon: 0.1}", "{kind: threshold}").replace(
                "count(*) > 0", "count(*) > 0, depends_on: action"
            ),
            "action",
        ),
    ],
    ids=["greedy", "threshold", "activation", "stated"],
)
def test_what_a_label_depends_on_follows_from_the_loop(
    change: Callable[[str], str], depends_on: str
) -> None:
    """A banner that is not shown is not clicked; a flight is late whatever we say."""
    loop = parse_loop(change(SHOP))
    assert loop.depends_on == depends_on
    assert loop.scores_actions == (depends_on == "action")


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        (SHOP.replace("count(*) > 0", "count(*) > 0, depends_on: world"), "greedy", "leave"),
        (
            SHOP.replace("count(*) > 0", "count(*) > 0, depends_on: action")
            .replace(
                "{type: choice, actions: [coupon, none], default: none}",
                "{type: float, default: 0.0}",
            )
            .replace("{kind: greedy, epsilon: 0.1}", "{kind: value}"),
            "value policy",
            "a choice among some numbers",
        ),
    ],
    ids=["greedy", "value"],
)
def test_a_dependence_that_the_policy_cannot_use_is_refused(
    text: str, what: str, hint: str
) -> None:
    """It would be judged by evidence that cannot exist."""
    with pytest.raises(LoopError, match=what) as error:
        parse_loop(text)
    assert hint in error.value.hint
