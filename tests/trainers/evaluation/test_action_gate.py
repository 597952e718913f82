"""The gate by rewards: what may decide where the log shows the outcome of one action only."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tests.trainers.simulation import World, headline_loop

from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.evaluation.action_gate import (
    MIN_EFFECTIVE,
    ActionEvaluation,
    judge_actions,
)
from tidemill.trainers.evaluation.action_sets import compared
from tidemill.trainers.evaluation.model_policies import ScoredPolicy, certain
from tidemill.trainers.rows import Integers, LoggedActions

ACTIONS, ROWS, EPSILON = 3, 6_000, 0.3
LOOP = headline_loop(World(np.full((2, ACTIONS), 0.2)), epsilon=EPSILON)
START = datetime(2026, 1, 1, tzinfo=UTC)


def explored(
    seed: int,
    gain: float,
    rows: int = ROWS,
    choice: Integers | None = None,
    live: int | None = None,
    *,
    without: int | None = None,
    odd: float = 0.2,
) -> ActionEvaluation:
    """Return a log of the default, action 0, where action 2 earns *gain* more than the others.

    The candidate takes *choice*, by default always action 2; its model of rewards is flat, but for
    one *odd* number. The live model takes the action *live*. The log has no row of the action
    *without*.
    """
    random = np.random.default_rng(seed)
    chance = random.random(rows) < EPSILON
    action = np.where(chance, random.integers(0, ACTIONS, rows), 0)
    propensity = EPSILON / ACTIONS + np.where(action == 0, 1.0 - EPSILON, 0.0)
    reward = (random.random(rows) < 0.2 + gain * (action == 2)).astype(float)
    logged = LoggedActions(action, np.zeros(rows, dtype=np.int64), propensity, ACTIONS)
    expected = np.full((rows, ACTIONS), 0.2)
    expected[3:4, 2] = odd
    known = np.flatnonzero(action != without)
    wanted = np.full(rows, 2) if choice is None else choice

    def taking(version: str, action: Integers) -> ScoredPolicy:
        return ScoredPolicy(version, certain(action[known], ACTIONS))

    found = compared(
        reward[known],
        logged[known],
        expected[known],
        taking("lightgbm-2", wanted),
        None if live is None else taking("lightgbm-1", np.full(rows, live)),
    )
    return replace(found, first_at=START, last_at=START + rows * timedelta(seconds=1))


def test_a_policy_that_earns_more_than_the_default_is_promoted() -> None:
    """The sentence has both values, by how much at least, and what that rests on."""
    verdict = judge_actions(LOOP, explored(1, gain=0.15))
    assert verdict.promoted
    assert verdict.reason.startswith("promoted: reward 0.3")
    assert "by SNIPS" in verdict.reason
    assert "by DR, on 6,000 later explored decisions that count as 583" in verdict.reason
    assert "the default 0.1" in verdict.reason or "the default 0.2" in verdict.reason
    assert "with 97.50% confidence" in verdict.reason
    assert verdict.metrics["reward"] > verdict.metrics["default_reward"]
    assert verdict.metrics["effective_rows"] == pytest.approx(600, rel=0.1)
    assert verdict.metrics["look"] == 1.0


@pytest.mark.parametrize("gain", [-0.15, 0.0])
def test_a_policy_that_earns_no_more_is_not_promoted(gain: float) -> None:
    """Negative control: the five headlines of which one for everybody was worse."""
    verdict = judge_actions(LOOP, explored(1, gain=gain))
    assert verdict.reason.startswith("not promoted: reward 0.")
    assert "the default's" in verdict.reason


def test_the_default_in_other_clothes_is_not_promoted() -> None:
    """A model that does what the default does adds a risk and no reward."""
    same = explored(2, gain=0.15, choice=np.zeros(ROWS, dtype=np.int64))
    assert "is not above the default's" in judge_actions(LOOP, same).reason


def test_a_candidate_has_to_beat_the_live_model_too() -> None:
    """And not only the default, which the live model beats as well."""
    verdict = judge_actions(LOOP, explored(3, gain=0.15, live=2))
    assert not verdict.promoted
    assert "is not above the live lightgbm-1's" in verdict.reason
    verdict = judge_actions(LOOP, explored(3, gain=0.15, live=1))
    assert verdict.promoted
    assert "the live lightgbm-1 0.1" in verdict.reason or "lightgbm-1 0.2" in verdict.reason
    assert verdict.metrics["live_reward"] < verdict.metrics["reward"]


def ever_promoted(loop: Loop, world: int, *, is_spent: bool) -> bool:
    """Return whether any of 20 candidates that know nothing is promoted in a null world."""
    random = np.random.default_rng(world)
    for look in range(1, 21):
        choice = random.integers(0, ACTIONS, 3_000)
        log = explored(world, gain=0.0, rows=3_000, choice=choice)
        if judge_actions(loop, replace(log, look=look if is_spent else 1)).promoted:
            return True
    return False


@pytest.mark.soak
def test_twenty_candidates_in_null_worlds_are_hardly_ever_promoted() -> None:
    """200 worlds in which no action is better: in at most 5 % any candidate gets through."""
    assert sum(ever_promoted(LOOP, world, is_spent=True) for world in range(200)) <= 10


@pytest.mark.slow
def test_a_candidate_that_knows_nothing_is_hardly_ever_promoted() -> None:
    """The short form of the proof above: 40 worlds."""
    assert sum(ever_promoted(LOOP, world, is_spent=True) for world in range(40)) <= 2


@pytest.mark.slow
def test_candidates_that_spend_nothing_get_through_by_chance() -> None:
    """Negative control: each judged as if it were the first, far more worlds promote one."""
    generous = LOOP.model_copy(update={"gate": LOOP.gate.model_copy(update={"confidence": 0.9})})
    assert sum(ever_promoted(generous, world, is_spent=False) for world in range(30)) > 3


def test_too_little_evidence_says_how_much_is_missing_and_when_it_is_there() -> None:
    """Whoever waits for a model must know whether it is hours or years."""
    few = replace(explored(4, gain=0.15, rows=600), share=0.2)
    verdict = judge_actions(LOOP, few)
    support = verdict.metrics["effective_rows"]
    assert support < MIN_EFFECTIVE
    missing = int(np.ceil((600 * MIN_EFFECTIVE / support - 600) / 0.2))
    assert f"about {missing:,} more explored decisions are missing" in verdict.reason
    ready = START + timedelta(seconds=600 + missing)
    assert f"there at about {ready:%Y-%m-%d %H:%M}" in verdict.reason
    assert "look" not in verdict.metrics


def test_a_log_without_exploration_says_what_to_write() -> None:
    """40,000 decisions by the default with propensity 1 say nothing about anything else."""
    nothing = explored(5, gain=0.15, rows=0)
    assert "no later decision was explored" in judge_actions(LOOP, nothing).reason
    assert "write" not in judge_actions(LOOP, nothing).reason
    certain_loop = headline_loop(World(np.full((2, ACTIONS), 0.2)), epsilon=0.0)
    verdict = judge_actions(certain_loop, nothing)
    assert "write policy: {kind: greedy, epsilon: 0.1}" in verdict.reason


def test_an_action_that_is_never_explored_is_no_evidence() -> None:
    """Propensities that do not sum to one would make a policy look worthless, or splendid."""
    choice = np.where(np.arange(ROWS) % 2, 1, 2)
    verdict = judge_actions(LOOP, explored(6, gain=0.15, choice=choice, without=2))
    assert "do not support the candidate" in verdict.reason


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_no_number_is_refused(odd: float) -> None:
    """A diverged learner, or a reward that is null for some label."""
    broken = explored(7, gain=0.15, odd=odd)
    assert "some predictions are not numbers" in judge_actions(LOOP, broken).reason
    log = explored(7, gain=0.15)
    reward = log.reward.copy()
    reward[:2] = odd
    assert "2 rewards are not numbers" in judge_actions(LOOP, replace(log, reward=reward)).reason
