"""Policies that explore by what a posterior is unsure of, with exact propensities."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import chisquare
from tests.serving.models import banner
from tests.serving.policies.test_chance import DRAWS, LIKELY

from tidemill.errors import ModelError
from tidemill.serving.policies.beliefs import chances_to_be_best
from tidemill.serving.policies.choice import ActionPolicy, Features, LiveModel
from tidemill.serving.policies.policies import policy_of

ACTIONS = ["a", "b", "c"]
MEANS, DEVIATIONS = [0.30, 0.25, 0.20], [0.02, 0.10, 0.05]


class Believed:
    """A posterior that is the same for all features."""

    def __init__(self, means: Sequence[float], deviations: Sequence[float]) -> None:
        self._means, self._deviations = list(means), list(deviations)

    def __call__(self, features: Features) -> float:
        """Return the mean of the action that is asked for."""
        return self._means[ACTIONS.index(str(features[-1]))]

    def beliefs(self, features: Features) -> tuple[list[float], list[float]]:
        """Return means and deviations."""
        return self._means, self._deviations


def policy(kind: str, **more: object) -> ActionPolicy:
    """Return a policy over three actions."""
    decision = {"type": "choice", "actions": ACTIONS, "default": "c"}
    return policy_of(banner(decision=decision, policy={"kind": kind, **more}))


MODEL = LiveModel("m-1", Believed(MEANS, DEVIATIONS), 100)


@pytest.mark.parametrize("kind", ["ucb", "linucb"])
def test_a_doubtful_action_has_the_benefit_of_the_doubt(kind: str) -> None:
    """Without a width the best mean is taken; with one, what may be better."""
    assert policy(kind, width=0.0).choose(MODEL, (), b"d") == ("a", 0.30, 1.0, None)
    assert policy(kind, width=2.0).choose(MODEL, (), b"d") == ("b", 0.25, 1.0, None)


def test_the_chances_to_be_best_are_those_of_draws() -> None:
    """Thompson sampling by its definition: draw each, and take the largest."""
    draws = np.random.default_rng(5).normal(MEANS, DEVIATIONS, (200_000, 3))
    expected = np.bincount(draws.argmax(axis=1), minlength=3) / len(draws)
    found = np.array(chances_to_be_best(MEANS, DEVIATIONS))
    assert found / found.sum() == pytest.approx(expected, abs=0.01)


def test_certainty_is_no_division_by_zero() -> None:
    """A posterior may be as sure as a double can say."""
    assert chances_to_be_best([0.1, 0.3], [0.0, 0.0]) == [0.0, 1.0]
    assert sum(chances_to_be_best([0.3, 0.3], [0.0, 0.0])) > 0.0
    assert sum(chances_to_be_best([1e9, 0.0], [1e-30, 1.0])) > 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("thompson", {}),
        ("thompson", {"epsilon": 0.2}),
        ("ucb", {"epsilon": 0.3}),
        ("linucb", {"epsilon": 0.3, "decay": 100, "width": 2.0}),
    ],
)
def test_logged_propensities_are_the_frequencies(kind: str, more: dict[str, object]) -> None:
    """Off-policy estimates divide by them: a wrong propensity is a wrong estimate."""
    made, counts, logged = policy(kind, **more), Counter[object](), dict[object, float]()
    for number in range(DRAWS):
        action, score, propensity, _ = made.choose(MODEL, (), f"d-{number}".encode())
        counts[action] += 1
        assert logged.setdefault(action, propensity or 0.0) == propensity
        assert score == MEANS[ACTIONS.index(str(action))]
    assert sum(logged.values()) == pytest.approx(1.0)
    expected = [DRAWS * propensity for propensity in logged.values()]
    assert chisquare([counts[action] for action in logged], expected).pvalue > LIKELY


@pytest.mark.parametrize("kind", ["thompson", "ucb", "linucb"])
def test_without_a_model_the_default_is_explored(kind: str) -> None:
    """A posterior needs rows of each action too."""
    keys = [f"d-{number}".encode() for number in range(200)]
    found = [policy(kind, epsilon=0.5).without_model("c", key)[0] for key in keys]
    assert {(action, round(p or 0, 9)) for action, _, p, _ in found} == {
        ("a", round(0.5 / 3, 9)),
        ("b", round(0.5 / 3, 9)),
        ("c", round(0.5 + 0.5 / 3, 9)),
    }


@pytest.mark.parametrize("kind", ["thompson", "ucb", "linucb"])
def test_a_belief_that_is_no_number_is_no_decision(kind: str) -> None:
    """The fallback answers, and the operator gets a count."""
    broken = LiveModel("m-1", Believed(MEANS, [0.1, math.nan, 0.1]))
    with pytest.raises(ModelError, match="score is"):
        policy(kind).choose(broken, (), b"d")
