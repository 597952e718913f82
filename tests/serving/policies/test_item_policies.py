"""Policies over the items of a request: what they log is what they do."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
from scipy.stats import chisquare
from tests.schemas.loops import with_items

from tidemill.errors import ModelError
from tidemill.serving.policies.item_policies import ItemChoice, ItemPolicy, place_drawn
from tidemill.serving.policies.policies import item_policy_of

DRAWS = 30_000
LIKELY = 1e-4
SCORES = [0.2, 0.9, 0.4, 0.7]
SETTINGS: dict[str, dict[str, object]] = {
    "greedy": {"kind": "greedy", "epsilon": 0.3},
    "decayed": {"kind": "greedy", "epsilon": 0.6, "decay": 500},
    "softmax": {"kind": "softmax", "temperature": 0.5},
    "softmax and epsilon": {"kind": "softmax", "temperature": 0.2, "epsilon": 0.3},
    "certain": {"kind": "greedy"},
}
Act = Callable[[bytes], ItemChoice]


def policy_of(kind: str, name: str) -> ItemPolicy:
    """Return the policy of a loop that decides by the settings *name*."""
    return item_policy_of(with_items(kind, policy=SETTINGS[name]))


def with_model(policy: ItemPolicy) -> Act:
    """Return how *policy* acts with a model that has learned from 500 examples."""
    return lambda key: policy.choose(SCORES, 500, key)


def without(policy: ItemPolicy) -> Act:
    """Return how *policy* acts without a model."""
    return lambda key: policy.without_model([0, 1, 2, 3], len(SCORES), key)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("acts", [with_model, without])
def test_each_item_is_taken_as_often_as_is_logged(
    name: str, acts: Callable[[ItemPolicy], Act]
) -> None:
    """All items are logged with their propensity, and any other policy is judged by it."""
    act = acts(policy_of("choice", name))
    counts = Counter[int]()
    for each in range(DRAWS):
        (taken,), logged, _ = act(f"d-{each}".encode())
        counts[taken] += 1
    propensities = [each or 0.0 for each in logged]
    assert sum(propensities) == pytest.approx(1.0)
    likely = [place for place, each in enumerate(propensities) if each]
    assert counts.keys() <= set(likely)
    found = [counts[place] for place in likely]
    expected = [DRAWS * propensities[place] for place in likely]
    assert len(found) == 1 or chisquare(found, expected).pvalue > LIKELY


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("acts", [with_model, without])
def test_each_item_gets_its_position_as_often_as_is_logged(
    name: str, acts: Callable[[ItemPolicy], Act]
) -> None:
    """The probability of a position is given those before it, as a click model needs it."""
    act = acts(policy_of("ranking", name))
    seen, logged = Counter[tuple[int, ...]](), dict[tuple[int, ...], float]()
    for each in range(DRAWS):
        order, propensities, _ = act(f"p-{each}".encode())
        assert sorted(order) == [0, 1, 2, 3]
        for length in range(1, len(order) + 1):
            prefix = tuple(order[:length])
            seen[prefix] += 1
            logged[prefix] = propensities[prefix[-1]] or 0.0
    for prefix, probability in logged.items():
        before = seen[prefix[:-1]] if len(prefix) > 1 else DRAWS
        spread = math.sqrt(before * probability * max(0.0, 1 - probability))
        assert abs(seen[prefix] - before * probability) <= 4.5 * spread + 1e-6


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_a_retry_of_the_same_id_acts_alike(kind: str, name: str) -> None:
    """A service that asks again must not show something else."""
    for act in (with_model(policy_of(kind, name)), without(policy_of(kind, name))):
        assert act(b"d-1") == act(b"d-1")


@pytest.mark.parametrize("name", ["greedy", "softmax"])
def test_two_hundred_items_keep_their_propensities(name: str) -> None:
    """A product over 200 positions is below every number a double can hold; none may become 0."""
    policy = item_policy_of(with_items("ranking", policy={**SETTINGS[name], "epsilon": 1.0}))
    scores = [place / 7 for place in range(200)]
    for made in (policy.choose(scores, 0, b"k"), policy.without_model(range(200), 200, b"k")):
        assert sorted(made.order) == list(range(200))
        by_position = [made.propensities[place] for place in made.order]
        assert by_position == pytest.approx([1 / (200 - place) for place in range(200)])


def test_scores_far_apart_still_make_an_order() -> None:
    """The weights of the last items are below what a double can hold beside those of the first."""
    policy = item_policy_of(with_items("ranking", policy={"kind": "softmax", "temperature": 0.01}))
    made = policy.choose([float(10 * place) for place in range(20)], 0, b"k")
    assert made.order == list(range(19, -1, -1))
    assert [made.propensities[place] for place in made.order] == pytest.approx([1.0] * 20)


def test_of_equal_scores_the_first_item_of_the_request_wins() -> None:
    """Without exploration an answer has to be the same each time."""
    assert policy_of("choice", "certain").choose([0.5, 0.5], 0, b"k").order == [0]
    assert policy_of("ranking", "certain").choose([0.5, 0.7, 0.5], 0, b"k").order == [1, 0, 2]


def test_a_baseline_may_name_some_of_the_items() -> None:
    """A service that shows three of ten says which three, and the others have no position."""
    made = policy_of("ranking", "certain").without_model([2, 0], 4, b"k")
    assert made == ItemChoice([2, 0], [1.0, None, 1.0, None], False)
    explored = policy_of("ranking", "greedy").without_model([2, 0], 4, b"k")
    assert len(explored.order) == 2
    assert sum(each is not None for each in explored.propensities) == 2


@pytest.mark.parametrize("name", ["greedy", "softmax"])
@pytest.mark.parametrize("kind", ["choice", "ranking"])
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_decides_nothing(kind: str, name: str, score: float) -> None:
    """The default answers, with the source fallback."""
    with pytest.raises(ModelError):
        policy_of(kind, name).choose([0.5, score], 0, b"k")


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3, 0.7])
def test_an_item_of_weight_zero_is_never_drawn_by_weight(epsilon: float) -> None:
    """The largest number of a chance may round up to all of the weight, and past the last item."""
    last = 1.0 - 2.0**-53
    for weights in ([1.0, 0.0], [0.1, 0.2, 0.0], [0.3, 0.7, 0.0, 0.0]):
        drawn = place_drawn(weights, epsilon, last)
        assert weights[drawn] > 0.0
    assert place_drawn([1.0, 0.0], 1.0, last) == 1
