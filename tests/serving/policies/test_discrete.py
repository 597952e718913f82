"""Policies take the action the loop file says, and log how likely it was."""

import math
from collections import Counter

import pytest
from tests.serving.models import banner

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.policies.choice import ActionPolicy, Features, LiveModel, ScoreFunction
from tidemill.serving.policies.discrete import drawn
from tidemill.serving.policies.policies import policy_of

ACTIONS = ["a", "b", "c", "d"]
SCORES = {"a": 0.1, "b": 0.7, "c": 0.4, "d": 0.7}


def of(score: ScoreFunction, learned_from: int = 0) -> LiveModel:
    """Return a model that scores by *score*."""
    return LiveModel("m-1", score, learned_from)


def choice(**policy: object) -> ActionPolicy:
    """Return a policy over four actions, by default a greedy one."""
    decision = {"type": "choice", "actions": ACTIONS, "default": "a"}
    return policy_of(banner(decision=decision, policy={"kind": "greedy", **policy}))


def by_action(features: Features) -> float:
    """Score as a model does that has learned the actions."""
    return SCORES[str(features[-1])]


@pytest.mark.parametrize(("score", "action"), [(0.49, "hide"), (0.5, "show"), (0.51, "show")])
def test_a_threshold_belongs_to_the_action_above_it(score: float, action: str) -> None:
    """Exactly at the threshold counts as above, as the loop file says."""
    found = policy_of(banner()).choose(of(lambda _: score), (), b"d")
    assert found == (action, score, 1.0, None)


def test_without_epsilon_the_first_best_action_is_taken() -> None:
    """Equal scores must not depend on the order of a dictionary."""
    assert choice().choose(of(by_action), (), b"d") == ("b", 0.7, 1.0, None)


@pytest.mark.parametrize("policy", [{}, {"kind": "softmax"}])
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_no_decision(policy: dict[str, object], score: float) -> None:
    """NaN compares with nothing: the best of NaNs would be any action at all."""
    with pytest.raises(ModelError, match="score is"):
        choice(**policy).choose(of(lambda _: score), (), b"d")
    with pytest.raises(ModelError, match="score is"):
        policy_of(banner()).choose(of(lambda _: score), (), b"d")


def test_an_action_is_asked_for_behind_the_features() -> None:
    """There a greedy model's signature has it, whatever the loop's own features are called."""
    asked: list[Features] = []

    def score(features: Features) -> float:
        asked.append(features)
        return by_action(features)

    choice().choose(of(score), (3, "action"), b"d")
    assert asked == [(3, "action", action) for action in ACTIONS]


def test_without_a_model_and_epsilon_the_default_is_certain() -> None:
    """A loop that does not explore answers as it always did."""
    assert choice().without_model("c", b"d") == (("c", None, 1.0, None), False)


def test_epsilon_decays_with_what_the_live_model_has_learned_from() -> None:
    """A policy that knows enough should stop paying for what it knows."""
    policy, shares = choice(epsilon=0.4, decay=1_000), []
    for learned_from in (0, 1_000, 3_000, 10**9):
        found = policy.choose(of(by_action, learned_from), (), b"d-3")
        assert found[0] == "b", "an id that is not explored"
        shares.append(round(1.0 - (found[2] or 0.0), 9))
    assert shares == pytest.approx([0.3, 0.15, 0.075, 0.0], abs=1e-6)


def test_softmax_prefers_by_score_and_temperature() -> None:
    """A low temperature is nearly greedy, a high one nearly random."""
    cold, hot = (choice(kind="softmax", temperature=t) for t in (0.01, 100.0))
    keys = [f"d-{number}".encode() for number in range(200)]
    assert {cold.choose(of(by_action), (), key)[0] for key in keys} == {"b", "d"}
    likely = [hot.choose(of(by_action), (), key)[2] for key in keys]
    assert likely == pytest.approx([0.25] * 200, abs=0.001)


def test_a_score_far_below_is_never_drawn() -> None:
    """Its weight is zero in doubles, and so must be its chance, at either end of the list."""
    assert drawn([1.0, 0.0], 0.0, 1.0 - 2**-53) == (0, 1.0)
    assert drawn([0.0, 1.0], 0.0, 2**-53) == (1, 1.0)


def test_the_same_id_is_explored_alike() -> None:
    """An experiment that cannot be repeated cannot be explained."""
    loop: Loop = banner(policy={"kind": "greedy", "epsilon": 0.5})
    keys = [f"d-{number}".encode() for number in range(100)]
    first, again = ([policy_of(loop).without_model("hide", key) for key in keys] for _ in range(2))
    assert first == again
    assert {action for (action, *_), _ in first} == {"show", "hide"}


LEARNED = LiveModel("m-1", by_action, actions=["a", "c"])


@pytest.mark.parametrize(
    ("policy", "certain"), [({}, 1.0), ({"kind": "softmax", "temperature": 1e-3}, 1.0)]
)
def test_an_action_is_explored_until_the_model_has_learned_it(
    policy: dict[str, object], certain: float
) -> None:
    """`b` and `d` score best, but their scores are of nothing the model has ever read."""
    found = [
        choice(epsilon=0.2, **policy).choose(LEARNED, (), f"d-{number}".encode())
        for number in range(2_000)
    ]
    chances = {(action, score): chance for action, score, chance, _ in found}
    assert chances == {
        ("c", 0.4): pytest.approx(0.8 * certain + 0.05),
        ("a", 0.1): pytest.approx(0.05),
        ("b", None): pytest.approx(0.05),
        ("d", None): pytest.approx(0.05),
    }
    counts = Counter(action for action, *_ in found)
    assert all(60 < counts[action] < 140 for action in "abd")


@pytest.mark.parametrize("policy", [{}, {"kind": "softmax"}])
def test_without_epsilon_an_action_that_is_not_learned_is_never_tried(
    policy: dict[str, object],
) -> None:
    """`tidemill check` says so; with the model of all actions `b` would be taken."""
    found = {choice(**policy).choose(LEARNED, (), f"d{n}".encode())[0] for n in range(500)}
    assert found <= {"a", "c"}
