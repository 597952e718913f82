"""Policies take the action the loop file says, and log how likely it was."""

import math
from collections import Counter
from random import Random

import pytest
from tests.serving.models import banner

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.decision.policy import ActionPolicy, Features, default_choice, policy_of

ACTIONS = ["a", "b", "c", "d"]
SCORES = {"a": 0.1, "b": 0.7, "c": 0.4, "d": 0.7}


def greedy(kind: str, epsilon: float) -> ActionPolicy:
    """Return a greedy policy over four actions."""
    decision = {"type": kind, "actions": ACTIONS, "default": "a" if kind == "choice" else ["a"]}
    return policy_of(
        banner(decision=decision, policy={"kind": "greedy", "epsilon": epsilon}), Random(1)
    )


def by_action(features: Features) -> float:
    """Score as a model does that has learned the actions."""
    return SCORES[str(features[-1])]


@pytest.mark.parametrize(("score", "action"), [(0.49, "hide"), (0.5, "show"), (0.51, "show")])
def test_a_threshold_belongs_to_the_action_above_it(score: float, action: str) -> None:
    """Exactly at the threshold counts as above, as the loop file says."""
    assert policy_of(banner(), Random(1)).choose(lambda _: score, ()) == (action, score, 1.0)


@pytest.mark.parametrize(("score", "action"), [(-5.0, -1.0), (0.25, 0.25), (9.0, 2.0)])
def test_a_value_is_clipped_and_its_score_is_not(score: float, action: float) -> None:
    """The log keeps what the model said, for the learner to see."""
    loop = banner(
        decision={"type": "float", "default": 0.0},
        policy={"kind": "value", "low": -1.0, "high": 2.0},
        label={"sql": "max(seconds)", "type": "float"},
    )
    assert policy_of(loop, Random(1)).choose(lambda _: score, ()) == (action, score, None)


def test_without_epsilon_the_first_best_action_is_taken() -> None:
    """Equal scores must not depend on the order of a dictionary."""
    assert greedy("choice", 0.0).choose(by_action, ()) == ("b", 0.7, 1.0)


def test_logged_propensities_are_the_frequencies() -> None:
    """Off-policy estimates divide by them: a wrong propensity is a wrong estimate."""
    policy = greedy("choice", 0.4)
    rounds = 40_000
    taken = [policy.choose(by_action, ()) for _ in range(rounds)]
    counts = Counter(str(action) for action, _, _ in taken)
    logged = {str(action): propensity for action, _, propensity in taken}
    assert logged == pytest.approx({"a": 0.1, "b": 0.7, "c": 0.1, "d": 0.1})
    for action, propensity in logged.items():
        assert counts[action] / rounds == pytest.approx(propensity, abs=0.01)
    assert all(score == SCORES[str(action)] for action, score, _ in taken)


def test_a_ranking_is_sorted_by_score() -> None:
    """Equal scores keep the order of the loop file; the score logged is the first one's."""
    assert greedy("ranking", 0.0).choose(by_action, ()) == (["b", "d", "c", "a"], 0.7, None)


def test_propensities_of_rankings_are_their_frequencies() -> None:
    """Of 24 orders, 23 come up by chance alone and the sorted one by chance too."""
    policy = greedy("ranking", 0.5)
    rounds = 48_000
    taken = [policy.choose(by_action, ()) for _ in range(rounds)]
    counts = Counter(",".join(action) for action, _, _ in taken if isinstance(action, list))
    logged = {",".join(action): p for action, _, p in taken if isinstance(action, list)}
    assert len(logged) == 24
    assert sum(p for p in logged.values() if p is not None) == pytest.approx(1.0)
    for order, propensity in logged.items():
        assert counts[order] / rounds == pytest.approx(propensity, abs=0.012)


@pytest.mark.parametrize("kind", ["choice", "ranking"])
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_no_decision(kind: str, score: float) -> None:
    """NaN compares with nothing: the best of NaNs would be any action at all."""
    with pytest.raises(ModelError, match="score is"):
        greedy(kind, 0.0).choose(lambda _: score, ())
    with pytest.raises(ModelError, match="score is"):
        policy_of(banner(), Random(1)).choose(lambda _: score, ())


def test_an_action_is_asked_for_behind_the_features() -> None:
    """There a greedy model's signature has it, whatever the loop's own features are called."""
    asked: list[Features] = []

    def score(features: Features) -> float:
        asked.append(features)
        return by_action(features)

    greedy("choice", 0.0).choose(score, (3, "action"))
    assert asked == [(3, "action", action) for action in ACTIONS]


@pytest.mark.parametrize(
    ("loop", "choice"),
    [
        (banner(), ("hide", None, 1.0)),
        (
            banner(
                decision={"type": "ranking", "actions": ACTIONS, "default": ["b", "a"]},
                policy={"kind": "greedy"},
            ),
            (["b", "a"], None, None),
        ),
    ],
)
def test_the_default_is_certain(loop: Loop, choice: tuple[object, None, float | None]) -> None:
    """No score stands behind it, and no chance either."""
    assert default_choice(loop) == choice
