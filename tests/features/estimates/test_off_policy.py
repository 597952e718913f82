"""Values of policies from the log of another: equal to closed forms, and to obp's numbers."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.features.estimates.intervals import Floats
from tidemill.features.estimates.off_policy import (
    clipped,
    doubly_robust,
    effective_rows,
    ips,
    is_supported,
    snips,
)

DATA = Path(__file__).parents[2] / "data" / "off_policy"
OBP: dict[str, Any] = json.loads((DATA / "obp.json").read_text())
ACTIONS = 3

numbers = st.floats(-100.0, 100.0)
weights = st.lists(st.floats(0.01, 50.0), min_size=2, max_size=40)


def open_bandit(policy: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Return the columns of one log of the Open Bandit sample."""
    with gzip.open(DATA / f"open_bandit_{policy}_all.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([kind(row[name]) for row in rows])
        for name, kind in (
            ("item_id", int),
            ("position", int),
            ("click", float),
            ("propensity_score", float),
        )
    }


@pytest.mark.parametrize("case", OBP["cases"], ids=lambda case: f"{case['ips']:.3f}")
def test_values_are_those_of_obp(case: dict[str, Any]) -> None:
    """An independent implementation, on rewards that are clicks and on rewards of any size."""
    reward, target = np.array(case["reward"]), np.array(case["target"])
    rows, action = np.arange(len(reward)), np.array(case["action"])
    weight = target[rows, action] / np.array(case["propensity"])
    predicted = np.array(case["predicted"])
    expected = (predicted * target).sum(axis=1)
    robust = doubly_robust(reward, weight, predicted[rows, action], expected)
    assert ips(reward, weight).value == pytest.approx(case["ips"], abs=1e-9)
    assert snips(reward, weight).value == pytest.approx(case["snips"], abs=1e-9)
    assert robust.value == pytest.approx(case["dr"], abs=1e-9)


def test_the_open_bandit_log_judges_thompson_as_obp_does() -> None:
    """Real clicks of a shop: a uniform log says what another policy would have got."""
    random, thompson, known = open_bandit("random"), open_bandit("bts"), OBP["open_bandit"]
    shown = np.zeros((int(random["item_id"].max()) + 1, 3))
    np.add.at(shown, (thompson["item_id"], thompson["position"] - 1), 1.0)
    policy = shown / shown.sum(axis=0)
    weight = policy[random["item_id"], random["position"] - 1] / random["propensity_score"]
    click = random["click"]
    constant = np.full(click.size, 0.0038)
    assert click.size == known["rows"] == 10_000
    assert float(click.mean()) == pytest.approx(known["log_click_rate"], abs=1e-9)
    assert ips(click, weight).value == pytest.approx(known["ips"], abs=1e-9)
    assert snips(click, weight).value == pytest.approx(known["snips"], abs=1e-9)
    robust = doubly_robust(click, weight, constant, constant)
    assert robust.value == pytest.approx(known["dr_of_constant"], abs=1e-9)
    true = known["own_click_rate_of_thompson"]
    assert thompson["click"].mean() == pytest.approx(true, abs=1e-9)
    found = snips(click, weight).interval(0.95)
    assert found.low < true < found.high
    assert is_supported(weight)


@given(weights, st.data())
def test_the_logging_policy_has_the_mean_reward(weight: list[float], data: st.DataObject) -> None:
    """With weights of 1 nothing is estimated: all three are the mean of the log."""
    rewards = data.draw(st.lists(numbers, min_size=len(weight), max_size=len(weight)))
    reward, ones = np.array(rewards), np.ones(len(weight))
    guess = np.full(len(weight), 7.0)
    for found in (
        ips(reward, ones),
        snips(reward, ones),
        doubly_robust(reward, ones, guess, guess),
    ):
        assert found.value == pytest.approx(float(reward.mean()), abs=1e-9)


@given(weights, numbers, numbers)
def test_a_constant_reward_is_known_without_error(
    weight: list[float], reward: float, shift: float
) -> None:
    """SNIPS moves with the scale of rewards, IPS by the mean weight: the closed forms."""
    each, rewards = np.array(weight), np.full(len(weight), reward)
    assert snips(rewards, each).value == pytest.approx(reward, abs=1e-9)
    assert snips(rewards + shift, each).value == pytest.approx(reward + shift, abs=1e-9)
    assert ips(rewards, each).value == pytest.approx(reward * each.mean(), abs=1e-9)


@given(weights, st.data())
def test_a_perfect_model_needs_no_weights(weight: list[float], data: st.DataObject) -> None:
    """DR with the true rewards is the direct method, and without a model it is IPS."""
    count = len(weight)
    each = np.array(weight)
    reward = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)))
    zero = np.zeros(count)
    expected = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)))
    perfect = doubly_robust(reward, each, reward, expected)
    assert perfect.value == pytest.approx(float(expected.mean()), abs=1e-9)
    assert doubly_robust(reward, each, zero, zero).value == ips(reward, each).value


def logged(random: np.random.Generator, count: int, best: int = 2) -> tuple[Floats, Floats, Floats]:
    """Return reward and weight of a log for the policy *best*, and its propensities of it.

    Action a pays with chance 0.1 + 0.2 a; the log takes action 0 with 0.8, the others with 0.1.
    """
    chances = np.array([0.8, 0.1, 0.1])
    action = random.choice(ACTIONS, count, p=chances)
    reward = (random.random(count) < 0.1 + 0.2 * action).astype(float)
    return reward, (action == best) / chances[action], chances[action]


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_intervals_hold_the_true_value_as_often_as_they_say(name: str) -> None:
    """300 logs, a tenth of each has what is judged: the truth is in 90 % of the intervals."""
    random, held = np.random.default_rng(5), 0
    for _ in range(300):
        reward, weight, _ = logged(random, 3_000)
        model = np.full(reward.size, 0.45)
        found = {
            "ips": ips(reward, weight),
            "snips": snips(reward, weight),
            "dr": doubly_robust(reward, weight, model, model),
        }[name].interval(0.9)
        held += found.low <= 0.5 <= found.high
    assert 0.85 < held / 300 < 0.95


def test_a_policy_is_above_another_by_what_the_rows_say() -> None:
    """The difference of paired terms is the difference of the values."""
    random = np.random.default_rng(8)
    reward, weight, propensity = logged(random, 20_000)
    default = (np.round(propensity, 9) == 0.8) / 0.8
    gap = snips(reward, weight).above(snips(reward, default), 0.95)
    assert gap.low < 0.4 < gap.high
    assert gap.mean == pytest.approx(
        snips(reward, weight).value - snips(reward, default).value, abs=1e-9
    )


def test_a_log_that_never_takes_an_action_cannot_judge_it() -> None:
    """Negative control of the support check: with support it holds, without it does not."""
    random = np.random.default_rng(1)
    _, weight, _ = logged(random, 5_000)
    assert is_supported(weight)
    half = np.where(random.random(5_000) < 0.5, weight, 0.0)
    assert not is_supported(half)
    assert not is_supported(np.zeros(100))
    with pytest.raises(ValueError, match="no decision that the policy would make"):
        snips(np.ones(5), np.zeros(5))


@given(weights)
def test_effective_rows_are_at_most_the_rows(weight: list[float]) -> None:
    """Equal weights lose nothing; clipping loses bias, never rows."""
    each = np.array(weight)
    assert 0.0 < effective_rows(each) <= each.size + 1e-9
    assert effective_rows(np.full(each.size, 3.0)) == pytest.approx(each.size)
    assert effective_rows(clipped(each, 5.0)) <= each.size + 1e-9
    assert effective_rows(np.zeros(3)) == 0.0


def test_weights_are_clipped_at_a_positive_number() -> None:
    """At zero no row would count, without a word."""
    assert clipped(np.array([0.5, 30.0]), 10.0).tolist() == [0.5, 10.0]
    with pytest.raises(ValueError, match="clipped at 0"):
        clipped(np.ones(2), 0.0)
