"""Rankings are sorted or drawn, and each position has its probability."""

import math

import pytest
from tests.serving.models import banner
from tests.serving.policies.test_discrete import ACTIONS, by_action, of

from tidemill.serving.policies.choice import ActionPolicy, Features, LiveModel
from tidemill.serving.policies.policies import policy_of


def ranking(**policy: object) -> ActionPolicy:
    """Return a policy that ranks four actions, by default a greedy one."""
    decision = {"type": "ranking", "actions": ACTIONS, "default": ["c", "a"]}
    return policy_of(banner(decision=decision, policy={"kind": "greedy", **policy}))


def test_a_ranking_is_sorted_by_score() -> None:
    """Equal scores keep the order of the loop file; the score logged is the first one's."""
    found = ranking().choose(of(by_action), (), b"d")
    assert found == (["b", "d", "c", "a"], 0.7, None, None)


@pytest.mark.parametrize("policy", [{"epsilon": 0.5}, {"kind": "softmax", "epsilon": 0.1}])
def test_the_positions_multiply_to_the_order(policy: dict[str, object]) -> None:
    """Estimates by position and by list must not contradict each other."""
    for number in range(100):
        key = f"d-{number}".encode()
        for found in (
            ranking(**policy).choose(of(by_action), (), key),
            ranking(**policy).without_model(["c", "a"], key)[0],
        ):
            order, _, propensity, positions = found
            assert positions is not None
            assert isinstance(order, list)
            assert len(positions) == len(order) == len(set(order))
            assert math.prod(positions) == propensity


def test_the_sorted_order_may_be_drawn_too() -> None:
    """So its propensity is more than the share that is not explored."""
    found = [ranking(epsilon=0.5).choose(of(by_action), (), f"d{n}".encode()) for n in range(50)]
    likely = {tuple(order): p for order, _, p, _ in found if isinstance(order, list)}
    best = ("b", "d", "c", "a")
    assert likely.pop(best) == pytest.approx(0.5 + 0.5 / 24)
    assert list(likely.values()) == pytest.approx([0.5 / 24] * len(likely))


def test_a_short_default_is_explored_by_orders_as_long() -> None:
    """A page with two places gets two, whoever chose them."""
    found = [ranking(epsilon=1.0).without_model(["c", "a"], f"d{n}".encode()) for n in range(200)]
    assert all(is_explored for _, is_explored in found)
    orders = {tuple(order) for (order, *_), _ in found if isinstance(order, list)}
    assert len(orders) == 4 * 3
    assert {p for (_, _, p, _), _ in found if p} == {1 / 12}


def test_without_exploration_a_ranking_has_no_propensity() -> None:
    """As it was before: nothing can be estimated from a log without chance."""
    assert ranking().without_model(["c", "a"], b"d") == ((["c", "a"], None, None, None), False)


def test_an_action_that_is_not_learned_ranks_by_the_mean_of_the_others() -> None:
    """So it is shown in the middle, gets feedback there, and is learned."""
    learned = LiveModel("m-1", by_action, actions=["a", "b"])
    assert ranking().choose(learned, (), b"d")[0] == ["b", "c", "d", "a"]
    assert ranking().choose(of(by_action), (), b"d")[0] == ["b", "d", "c", "a"]
    drawn = ranking(kind="softmax", temperature=1e-3).choose(learned, (), b"d")
    assert drawn[0] in (["b", "c", "d", "a"], ["b", "d", "c", "a"])


def by_number(features: Features) -> float:
    """Score an action by the number in its name."""
    return float(str(features[-1])[1:])


@pytest.mark.parametrize(
    "policy",
    [{"kind": "greedy", "epsilon": 1.0}, {"kind": "softmax", "temperature": 1e6}],
)
def test_a_long_ranking_has_the_probability_of_each_position(policy: dict[str, object]) -> None:
    """Of 200 actions an order has one that no double can hold: zero would say it cannot happen."""
    actions = [f"a{number}" for number in range(200)]
    decision = {"type": "ranking", "actions": actions, "default": actions}
    made = policy_of(banner(decision=decision, policy=policy))
    _, _, propensity, positions = made.choose(of(by_number), (), b"d")
    assert propensity is None
    assert positions == pytest.approx([1 / (200 - place) for place in range(200)], rel=1e-3)
