"""What a control is worth: an answer to "did it help", and no bias in what the gate estimates."""

import numpy as np
import polars as pl
import pytest
from tests.trainers.rollout.rig import Rig, offer
from tests.trainers.simulation import World, headline_loop

from tidemill.features.estimates.intervals import Floats
from tidemill.features.estimates.off_policy import doubly_robust, snips
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.datasets import BASELINE, PROPENSITY, SOURCE
from tidemill.schemas.assignment import Assignment, stage_of
from tidemill.schemas.models.feature_signature import ACTION
from tidemill.trainers.evaluation.model_policies import ScoredPolicy, certain, judged
from tidemill.trainers.rollout.evidence import against_control, rows_in_stage
from tidemill.trainers.rows import Integers, LoggedActions

HEADLINES = World.headlines().clicks
WORLD = World(HEADLINES * np.array([[3.0], [1.0], [1.0], [1.0], [1.0], [1.0]]))
"""Readers of the first segment click three times as often, and the default is the best for them."""
LOOP = headline_loop(WORLD)
EPSILON, ROWS, CONTROL_SHARE, SEEDS = 0.5, 2_000, 0.1, 300


def played(seed: int) -> tuple[LoggedActions, Integers, Floats]:
    """Return what a loop with a control of 10 % has logged: actions, segments and rewards.

    The control does the default for certain, the others explore around the first headline.
    """
    random = np.random.default_rng(seed)
    numbers = Assignment("headlines", "stage", str(seed))
    units = [numbers.number(f"visitor-{n}") for n in range(ROWS)]
    stages = np.array([stage_of(unit, control=CONTROL_SHARE, canary=0.0) for unit in units])
    is_control = stages == "control"
    segments, actions = random.integers(0, 6, ROWS), WORLD.clicks.shape[1]
    action = np.where(random.random(ROWS) < EPSILON, random.integers(0, actions, ROWS), 1)
    propensity = EPSILON / actions + np.where(action == 1, 1.0 - EPSILON, 0.0)
    action, propensity = np.where(is_control, 0, action), np.where(is_control, 1.0, propensity)
    reward = (random.random(ROWS) < WORLD.clicks[segments, action]).astype(float)
    frame = pl.DataFrame(
        {
            ACTION: [f"headline-{number}" for number in action],
            BASELINE: ["headline-0"] * ROWS,
            PROPENSITY: propensity,
            SOURCE: np.where(is_control, "default", "model"),
        }
    )
    return LoggedActions.of(frame, LOOP), np.asarray(segments), np.asarray(reward)


def error_of(*, is_filtered: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Return the mean error of each estimate of the best policy, and its standard error."""
    errors: dict[str, list[float]] = {"snips": [], "dr": []}
    truth = WORLD.value(WORLD.best)
    for seed in range(SEEDS):
        logged, segments, reward = played(seed)
        rows = np.flatnonzero(logged.is_explored)
        if not is_filtered:
            certain_rows = np.where(np.isnan(logged.propensity), 1.0, logged.propensity)
            logged = LoggedActions(logged.action, logged.baseline, certain_rows, logged.actions)
            rows = np.arange(ROWS)
        logged, segments, reward = logged[rows], segments[rows], reward[rows]
        expected = np.full((rows.size, logged.actions), 0.05)  # a model of the reward that is wrong
        policy = ScoredPolicy("best", certain(WORLD.best[segments], logged.actions))
        best = judged(policy, logged, expected)
        predicted = expected[np.arange(rows.size), logged.action]
        errors["snips"].append(snips(reward, best.weight).value - truth)
        robust = doubly_robust(reward, best.weight, predicted, best.expected)
        errors["dr"].append(robust.value - truth)
    means = {name: float(np.mean(each)) for name, each in errors.items()}
    spread = {name: float(np.std(each)) / SEEDS**0.5 for name, each in errors.items()}
    return means, spread


@pytest.mark.slow
def test_a_control_of_a_tenth_is_no_bias_in_the_estimates() -> None:
    """SNIPS and DR of a policy are what it earns, on average over many logs."""
    means, spread = error_of(is_filtered=True)
    assert all(abs(means[name]) < 3.0 * spread[name] for name in means), (means, spread)


@pytest.mark.slow
def test_control_rows_among_the_explored_ones_are_a_bias() -> None:
    """The negative control: a certain row says nothing of the other actions, with any weight."""
    means, spread = error_of(is_filtered=False)
    assert all(abs(means[name]) > 5.0 * spread[name] for name in means), (means, spread)


def clicked(rate: float, seed: int) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Return which of 400 decisions were clicked."""
    return np.random.default_rng(seed).random(400) < rate


def test_what_the_loop_adds_is_live_less_control(lake: Lake) -> None:
    """The one number that a product owner asks for; its interval holds the truth."""
    rig = Rig(lake, offer(rollout={"control": 0.1}))
    assert against_control(lake, rig.loop, None) is None
    rig.decide("live", clicked(0.7, 1), model="lightgbm-1")
    rig.decide("control", clicked(0.3, 2), model=None)
    found = against_control(lake, rig.loop, None)
    assert found is not None
    truth = 2.0 * (0.7 - 0.3)  # a wrong action costs 1 at a threshold of one half
    assert found.gain.low < truth / 2 < found.gain.high
    assert (found.own.rows, found.other.rows) == (400, 400)
    assert found.own.units == 97, "visitors, not decisions"


def test_each_stage_counts_its_own_rows(lake: Lake) -> None:
    """A shadow scores what others decide; a canary counts what it decided itself."""
    rig = Rig(lake, offer(rollout={"stages": ["shadow", "canary", "live"]}))
    rig.made()
    rig.settle()
    rig.decide("live", clicked(0.5, 1), model=None)
    [shadow] = rig.registry.stages.standing.changes
    assert rows_in_stage(lake, rig.loop, shadow) == 400
    rig.person().does(lambda hand: hand.promote("lightgbm-1", "at once"))
    rig.decide("live", clicked(0.5, 1), model="lightgbm-1", first=400)
    live = rig.registry.stages.read().live
    assert live is not None
    assert rows_in_stage(lake, rig.loop, live) == 400
