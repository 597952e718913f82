"""The watch: a live model that earns less than the default is taken back, and no other."""

import numpy as np
import polars as pl
import pytest
from tests.trainers.simulation import Simulation, World, headline_loop

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.models.feature_signature import ACTION, FeatureSignature
from tidemill.trainers.evaluation.action_sets import model_evaluation
from tidemill.trainers.evaluation.live_watch import RUN_ROWS, LiveWatch
from tidemill.trainers.evaluation.rewards import Rewards
from tidemill.trainers.rows import LabeledRows

ACTIONS = 3


class Always:
    """A model that finds one action the best, whatever the features."""

    def __init__(self, action: str) -> None:
        self._action = action

    def predict(self, features: pl.DataFrame) -> Floats:
        """Return 1 for that action and 0 for others."""
        return (features.get_column(ACTION) == self._action).cast(pl.Float64).to_numpy()


def watched(gain: float, rows: int, seed: int = 1) -> tuple[LiveWatch, LabeledRows]:
    """Return the watch on a model that takes action 2, and decisions of it.

    Action 2 earns *gain* more than the default, which is action 0.
    """
    world = World(np.array([[0.3, 0.3, 0.3 + gain]]))
    loop = headline_loop(world, epsilon=0.3)
    model = Always("headline-2")
    signature = FeatureSignature.of_loop(loop)
    rewards = Rewards(loop)
    watch = LiveWatch(
        loop,
        version="x-1",
        evaluate=lambda rows: model_evaluation(loop, rewards, rows, model, signature, "x-1"),
        seen_until=0,
    )
    simulation = Simulation(world=World(world.clicks, default=2), loop=loop, seed=seed)
    decided = simulation.decide(rows)  # by a policy that takes action 2 where chance does not
    logged = decided.logged
    assert logged is not None
    logged.baseline[:] = 0
    return watch, decided


def test_a_model_that_earns_less_than_the_default_is_taken_back() -> None:
    """The sentence says how much less, on how many decisions, and how sure that is."""
    watch, rows = watched(gain=-0.2, rows=6_000)
    watch.take(rows)
    problem = watch.problem()
    assert problem is not None
    assert problem.startswith("x-1 earns 0.")
    assert "less than the default on 6,000 explored decisions since it was trained" in problem
    gain = watch.gain()
    assert gain.low < -0.2 < gain.high < 0.0


@pytest.mark.parametrize("gain", [0.0, 0.2])
def test_a_model_that_earns_as_much_stays(gain: float) -> None:
    """Negative control."""
    watch, rows = watched(gain=gain, rows=6_000)
    watch.take(rows)
    assert watch.problem() is None


def test_a_bad_hour_is_no_reason() -> None:
    """Fewer than 30 runs say nothing, however bad they look."""
    watch, rows = watched(gain=-0.29, rows=29 * RUN_ROWS)
    watch.take(rows)
    assert watch.problem() is None


def test_commits_of_any_size_give_the_same_values() -> None:
    """A trainer that starts again reads the same rows in other portions."""
    whole, rows = watched(gain=-0.1, rows=3_210)
    parts, _ = watched(gain=-0.1, rows=3_210)
    whole.take(rows)
    for start in range(0, 3_210, 77):
        parts.take(rows.slice(start, min(start + 77, 3_210)))
    assert parts.gain().mean == pytest.approx(whole.gain().mean, abs=1e-12)


def test_answers_that_no_chance_decided_say_nothing() -> None:
    """A fallback is no evidence against the model that could not answer."""
    watch, rows = watched(gain=-0.2, rows=6_000)
    logged = rows.logged
    assert logged is not None
    logged.propensity[:] = np.nan
    watch.take(rows)
    assert watch.problem() is None
    assert np.isnan(watch.gain().mean)


def test_rewards_that_are_no_numbers_do_not_blind_the_watch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One such reward would make every mean after it none, and no model would be taken back."""
    watch, rows = watched(gain=-0.2, rows=6_000)
    rows.label[::100] = np.nan
    watch.take(rows)
    assert watch.problem() is not None
    assert "leaves out 60 rewards that are no numbers" in caplog.text


@pytest.mark.soak
@pytest.mark.slow
def test_a_model_as_good_as_the_default_is_hardly_ever_taken_back() -> None:
    """100 null worlds, 120 looks each: at most 5 %."""
    taken = 0
    for seed in range(100):
        watch, rows = watched(gain=0.0, rows=6_000, seed=seed)
        for start in range(0, 6_000, RUN_ROWS):
            watch.take(rows.slice(start, start + RUN_ROWS))
            if watch.problem():
                taken += 1
                break
    assert taken <= 5
