"""The gate: what may decide about real things, and the sentence for what may not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.evaluation.gate import (
    Evaluation,
    default_cost,
    judge,
    metric_of,
    policy_cost,
)
from tidemill.trainers.evaluation.metrics import Candidate

MakeLoop = Callable[..., Loop]
RANDOM = np.random.default_rng(11)
ROWS = 6_000
TRUTH = RANDOM.beta(1.0, 3.0, ROWS)
LABEL = (RANDOM.random(ROWS) < TRUTH).astype(float)
RATE = 0.25


def candidate(predicted: Floats, name: str = "lightgbm", number: int = 2) -> Candidate:
    """A candidate with these predictions."""
    return Candidate(name, f"{name}-{number}", predicted)


GOOD = Evaluation(label=LABEL, candidate=candidate(TRUTH), base_rate=RATE)


def test_a_model_that_knows_something_is_promoted(make_loop: MakeLoop) -> None:
    """What is enough: better than the base rate, and no more costly than the default."""
    verdict = judge(make_loop(), GOOD)
    assert verdict.promoted
    assert verdict.reason.startswith("promoted: log loss 0.")
    assert "on 6,000 later rows" in verdict.reason
    assert verdict.metrics["log_loss"] < verdict.metrics["base_log_loss"]
    assert verdict.metrics["policy_cost"] < verdict.metrics["default_cost"]
    assert 0.6 < verdict.metrics["auc"] < 1.0


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_not_promoted(make_loop: MakeLoop, seed: int) -> None:
    """Negative control: random predictions near the base rate."""
    noise = np.clip(RATE + np.random.default_rng(seed).normal(0.0, 0.02, ROWS), 0.01, 0.99)
    assert not judge(make_loop(), replace(GOOD, candidate=candidate(noise))).promoted


def test_shuffled_predictions_are_not_promoted(make_loop: MakeLoop) -> None:
    """Negative control: the right numbers for the wrong rows."""
    shuffled = np.random.default_rng(1).permutation(TRUTH)
    verdict = judge(make_loop(), replace(GOOD, candidate=candidate(shuffled)))
    assert verdict.reason.startswith("not promoted: log loss")
    assert "is not below the base rate's" in verdict.reason


def test_the_base_rate_itself_is_not_promoted(make_loop: MakeLoop) -> None:
    """A constant model adds a risk and no knowledge."""
    constant = replace(GOOD, candidate=candidate(np.full(ROWS, RATE)))
    assert not judge(make_loop(), constant).promoted


def test_the_live_model_does_not_lose_to_its_own_copy(make_loop: MakeLoop) -> None:
    """Negative control: the same model again is no reason to swap a fleet."""
    live = candidate(TRUTH, number=1)
    verdict = judge(make_loop(), replace(GOOD, live=live))
    assert not verdict.promoted
    assert "is not below the live lightgbm-1's" in verdict.reason


def test_a_worse_model_does_not_replace_the_live_one(make_loop: MakeLoop) -> None:
    """And the sentence has both numbers and the count of rows."""
    worse = candidate(np.clip(TRUTH * 0.5 + 0.1, 0.01, 0.99))
    verdict = judge(make_loop(), replace(GOOD, candidate=worse, live=candidate(TRUTH, number=1)))
    own, its = verdict.metrics["log_loss"], verdict.metrics["live_log_loss"]
    assert verdict.reason == (
        f"not promoted: log loss {own:.4f} is not below the live lightgbm-1's {its:.4f} "
        "on 6,000 later rows"
    )


def test_a_better_model_replaces_the_live_one(make_loop: MakeLoop) -> None:
    """The mirror of the test above: the gate is a gate, not a wall."""
    worse = candidate(np.clip(TRUTH * 0.5 + 0.1, 0.01, 0.99), number=1)
    assert judge(make_loop(), replace(GOOD, live=worse)).promoted


def test_what_may_be_chance_is_not_promoted(make_loop: MakeLoop) -> None:
    """Better by a hair on these rows is a coin's toss on the next."""
    hair = np.clip(TRUTH + np.random.default_rng(2).normal(0.0, 0.001, ROWS), 1e-3, 1 - 1e-3)
    verdicts = [
        judge(
            make_loop(),
            replace(GOOD, candidate=candidate(one), live=candidate(other, number=1)),
        )
        for one, other in ((hair, TRUTH), (TRUTH, hair))
    ]
    assert not any(verdict.promoted for verdict in verdicts)
    assert any("may be chance" in verdict.reason for verdict in verdicts)


def test_too_few_rows_decide_nothing(make_loop: MakeLoop) -> None:
    """The sentence says how many there are and how many are wanted."""
    few = replace(GOOD, label=LABEL[:99], candidate=candidate(TRUTH[:99]))
    verdict = judge(make_loop(), few)
    assert verdict.reason == "not promoted: only 99 later rows, the gate wants 100"


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_predictions_that_are_no_numbers_are_refused(make_loop: MakeLoop, odd: float) -> None:
    """A diverged learner must not get through on its good rows."""
    broken = TRUTH.copy()
    broken[7] = odd
    verdict = judge(make_loop(), replace(GOOD, candidate=candidate(broken)))
    assert verdict.reason == "not promoted: some predictions are not numbers"


def test_a_model_whose_actions_cost_more_than_the_default_is_refused(make_loop: MakeLoop) -> None:
    """It can rank well and still warn far too often for what a needless warning costs."""
    eager = candidate(np.clip(TRUTH + 0.08, 0.0, 0.99))
    policy = {"kind": "threshold", "threshold": 0.9, "above": "warn", "below": "quiet"}
    label = LABEL.copy()
    label[eager.predicted >= 0.9] = 0.0
    loop = make_loop(policy=policy)
    trial = Evaluation(label=label, candidate=eager, base_rate=RATE)
    verdict = judge(loop, trial)
    assert not verdict.promoted
    assert "always 'quiet' costs" in verdict.reason or "base rate" in verdict.reason


def test_the_cost_of_actions_follows_from_the_threshold(make_loop: MakeLoop) -> None:
    """A threshold of 0.4 says that a miss is worth one and a half needless warnings."""
    loop = make_loop()
    label, predicted = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.3, 0.4, 0.3, 0.4])
    cost = policy_cost(loop, label, predicted)
    default = default_cost(loop, label)
    assert cost is not None
    assert default is not None
    assert cost.tolist() == pytest.approx([0.0, 0.8, 1.2, 0.0])
    assert default.tolist() == pytest.approx([0.0, 0.0, 1.2, 1.2])


def test_at_one_half_the_cost_is_the_error_rate(make_loop: MakeLoop) -> None:
    """So that the number means something to everyone."""
    policy = {"kind": "threshold", "threshold": 0.5, "above": "warn", "below": "quiet"}
    cost = policy_cost(make_loop(policy=policy), LABEL, TRUTH)
    assert cost is not None
    assert float(np.mean(cost)) == pytest.approx(float(np.mean((TRUTH >= 0.5) != (LABEL > 0.5))))


def test_a_threshold_on_a_number_is_judged_by_its_distance(make_loop: MakeLoop) -> None:
    """Minutes of delay: a missing warning costs twice what was beyond the threshold."""
    loop = make_loop(
        label={"sql": "max(delay)", "type": "float"},
        policy={"kind": "threshold", "threshold": 15.0, "above": "warn", "below": "quiet"},
    )
    label = np.array([10.0, 20.0, 20.0])
    assert policy_cost(loop, label, np.array([16.0, 16.0, 3.0])).tolist() == [10.0, 0.0, 10.0]
    assert default_cost(loop, label).tolist() == [0.0, 10.0, 10.0]


def test_a_stated_reward_replaces_the_cost(make_loop: MakeLoop) -> None:
    """A warning that costs more than it is worth is not given, however good the predictions."""
    reward = "case when action = 'warn' then 5 * label - 1 else 0 end"
    loop = make_loop(gate={"min_rows": 100, "reward": reward})
    verdict = judge(loop, GOOD)
    assert verdict.promoted
    assert verdict.metrics["default_cost"] == 0.0
    assert verdict.metrics["policy_cost"] < 0.0
    dear = make_loop(gate={"min_rows": 100, "reward": reward.replace("- 1", "- 6")})
    verdict = judge(dear, GOOD)
    assert "deciding by it costs" in verdict.reason
    assert "always 'quiet' costs -0.0000" in verdict.reason or "costs 0.0000" in verdict.reason


def test_the_baseline_of_a_request_is_what_has_to_be_beaten(make_loop: MakeLoop) -> None:
    """A service that decides well already loses by a model that only beats the loop's default."""
    known = pl.Series(np.where(LABEL > 0.5, "warn", "quiet"))
    verdict = judge(make_loop(), replace(GOOD, baseline=known))
    assert verdict.metrics["default_cost"] == 0.0
    assert "the baseline costs 0.0000" in verdict.reason


def test_a_reward_that_is_no_number_promotes_nothing(make_loop: MakeLoop) -> None:
    """For a label that is a number nobody can check that before."""
    loop = make_loop(
        decision={"type": "float", "default": 0.0},
        label={"sql": "max(delay)", "type": "float"},
        policy={"kind": "value", "low": 0.0, "high": 20.0},
        gate={"min_rows": 100, "reward": "ln(label)"},
    )
    label = RANDOM.normal(0.0, 3.0, ROWS)
    trial = Evaluation(label=label, candidate=candidate(label), base_rate=0.0)
    assert judge(loop, trial).reason == "not promoted: some rewards are not numbers"


def test_a_number_is_judged_by_squared_error(make_loop: MakeLoop) -> None:
    """A price has no log loss; the action is the score itself, within its limits."""
    loop = make_loop(
        decision={"type": "float", "default": 0.0},
        label={"sql": "max(delay)", "type": "float"},
        policy={"kind": "value", "low": 0.0, "high": 20.0},
    )
    label = RANDOM.normal(10.0, 3.0, ROWS)
    trial = Evaluation(label=label, candidate=candidate(label + 1.0), base_rate=10.0)
    verdict = judge(loop, trial)
    assert metric_of(loop) == "mse"
    assert verdict.promoted
    assert verdict.metrics["mse"] == pytest.approx(1.0)
    assert verdict.metrics["default_cost"] > 100.0


def test_an_online_model_that_continues_the_live_one_only_keeps_its_footing(
    make_loop: MakeLoop,
) -> None:
    """It cannot beat itself; losing to the base rate still stops it."""
    online = replace(
        GOOD,
        candidate=candidate(TRUTH, "logistic_regression", 5),
        continues="logistic_regression-4",
    )
    verdict = judge(make_loop(), online)
    assert verdict.promoted
    assert "continues the live logistic_regression-4" in verdict.reason
    lost = replace(online, candidate=candidate(1.0 - TRUTH, "logistic_regression", 5))
    assert not judge(make_loop(), lost).promoted
