"""For every policy the logged propensity is the frequency with which it acts."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chisquare, kstest
from tests.serving.models import banner
from tests.serving.policies.test_chance import DRAWS, LIKELY
from tests.serving.policies.test_discrete import by_action, of

from tidemill.schemas.loop.definition import Loop
from tidemill.serving.policies.choice import Action, ActionPolicy, Choice
from tidemill.serving.policies.policies import policy_of

pytestmark = pytest.mark.slow

CHOICE = {"type": "choice", "actions": ["a", "b", "c", "d"], "default": "c"}
RANKING = {"type": "ranking", "actions": ["a", "b", "c"], "default": ["c", "a", "b"]}
SHORT = {**RANKING, "default": ["c", "a"]}
NUMBER = {
    "decision": {"type": "float", "default": 0.25},
    "label": {"sql": "max(seconds)", "type": "float"},
}


def number(**policy: object) -> Loop:
    """Return a loop that decides a number from -1 to 2."""
    return banner(**NUMBER, policy={"kind": "value", "low": -1.0, "high": 2.0, **policy})


LOOPS = {
    "threshold": banner(policy={"kind": "threshold", "above": "show", "epsilon": 0.3}),
    "bool": banner(
        decision={"type": "bool", "default": False}, policy={"kind": "threshold", "epsilon": 0.3}
    ),
    "greedy": banner(decision=CHOICE, policy={"kind": "greedy", "epsilon": 0.4}),
    "decayed": banner(decision=CHOICE, policy={"kind": "greedy", "epsilon": 0.4, "decay": 500}),
    "softmax": banner(decision=CHOICE, policy={"kind": "softmax", "temperature": 0.5}),
    "softmax and epsilon": banner(decision=CHOICE, policy={"kind": "softmax", "epsilon": 0.2}),
    "grid": number(grid=4, epsilon=0.3),
    "greedy ranking": banner(decision=RANKING, policy={"kind": "greedy", "epsilon": 0.5}),
    "Plackett-Luce": banner(decision=RANKING, policy={"kind": "softmax", "temperature": 0.4}),
    "Plackett-Luce and epsilon": banner(
        decision=SHORT, policy={"kind": "softmax", "temperature": 0.2, "epsilon": 0.3}
    ),
}


def with_model(policy: ActionPolicy, loop: Loop) -> Callable[[bytes], Choice]:
    """Return how *policy* acts with a model that has learned from 500 examples."""
    scores_actions = loop.policy.kind in ("greedy", "softmax")
    model = of(by_action if scores_actions else lambda _: 0.6, 500)
    return lambda key: policy.choose(model, (), key)


def without(policy: ActionPolicy, loop: Loop) -> Callable[[bytes], Choice]:
    """Return how *policy* acts without a model."""
    return lambda key: policy.without_model(loop.decision.default, key)[0]


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("acts", [with_model, without])
def test_logged_propensities_are_the_frequencies(
    name: str, acts: Callable[[ActionPolicy, Loop], Callable[[bytes], Choice]]
) -> None:
    """Off-policy estimates divide by them: a wrong propensity is a wrong estimate."""
    act = acts(policy_of(LOOPS[name]), LOOPS[name])
    counts, logged = Counter[object](), dict[object, float]()
    for each in range(DRAWS):
        action, _, propensity, _ = act(f"d-{each}".encode())
        counts[named(action)] += 1
        known = logged.setdefault(named(action), propensity or 1.0)
        assert known == (propensity or 1.0), "one action, one propensity"
    assert sum(logged.values()) == pytest.approx(1.0), "no action is left out"
    expected = [DRAWS * propensity for propensity in logged.values()]
    found = [counts[action] for action in logged]
    assert len(found) == 1 or chisquare(found, expected).pvalue > LIKELY


@pytest.mark.parametrize("name", ["greedy ranking", "Plackett-Luce and epsilon"])
def test_each_position_has_the_frequency_of_its_propensity(name: str) -> None:
    """Click models need the probability of a place, not only of the whole list."""
    for acts in (with_model, without):
        act = acts(policy_of(LOOPS[name]), LOOPS[name])
        seen, logged = Counter[tuple[str, ...]](), dict[tuple[str, ...], float]()
        for each in range(DRAWS):
            order, _, _, positions = act(f"p-{each}".encode())
            assert isinstance(order, list)
            for place, probability in enumerate(positions or [], start=1):
                seen[tuple(order[:place])] += 1
                logged[tuple(order[:place])] = probability
        for prefix, probability in logged.items():
            before = seen[prefix[:-1]] if len(prefix) > 1 else DRAWS
            spread = math.sqrt(before * probability * (1 - probability))
            assert abs(seen[prefix] - before * probability) <= 4.5 * spread + 1e-9


@pytest.mark.parametrize("middle", [0.25, 1.9, -1.0])
def test_numbers_drawn_are_distributed_as_their_density_says(middle: float) -> None:
    """A density that does not integrate to what happens is no propensity."""
    policy = policy_of(number(spread=1.5))
    drawn = [policy.without_model(middle, f"d-{each}".encode())[0] for each in range(DRAWS)]
    values = np.array([action for action, *_ in drawn], dtype=float)

    def cdf(at: float) -> float:
        return (1 + math.erf((at - middle) / 1.5 / math.sqrt(2))) / 2

    inside = cdf(2.0) - cdf(-1.0)
    levels = np.array([(cdf(value) - cdf(-1.0)) / inside for value in values])
    assert kstest(levels, "uniform").pvalue > LIKELY
    weights = 1.0 / np.array([density for _, _, density, _ in drawn])
    assert weights.mean() == pytest.approx(3.0, rel=0.02), "1/density integrates to the range"


def named(action: Action) -> object:
    """Return *action* as a key."""
    return tuple(action) if isinstance(action, list) else action
