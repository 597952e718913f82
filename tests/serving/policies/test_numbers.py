"""Numbers are the score itself, a draw around it, or a point of a grid."""

import math

import pytest
from tests.serving.models import banner
from tests.serving.policies.test_discrete import of

from tidemill.serving.policies.choice import ActionPolicy
from tidemill.serving.policies.policies import policy_of


def number(**policy: object) -> ActionPolicy:
    """Return a policy for numbers from -1 to 2."""
    return policy_of(
        banner(
            decision={"type": "float", "default": 0.25},
            policy={"kind": "value", "low": -1.0, "high": 2.0, **policy},
            label={"sql": "max(seconds)", "type": "float"},
        )
    )


@pytest.mark.parametrize(("score", "action"), [(-5.0, -1.0), (0.25, 0.25), (9.0, 2.0)])
def test_a_value_is_clipped_and_its_score_is_not(score: float, action: float) -> None:
    """The log keeps what the model said, for the learner to see."""
    assert number().choose(of(lambda _: score), (), b"d") == (action, score, None, None)
    assert number().without_model(0.25, b"d") == ((0.25, None, None, None), False)


@pytest.mark.parametrize("score", [-500.0, 0.25, 500.0])
@pytest.mark.parametrize("spread", [1e-9, 0.5, 1e9])
def test_a_draw_around_the_score_stays_in_the_range(score: float, spread: float) -> None:
    """A price below the floor is not exploration, it is a fault."""
    policy = number(spread=spread)
    for each in range(200):
        action, _, density, _ = policy.choose(of(lambda _: score), (), f"d{each}".encode())
        assert isinstance(action, float)
        assert -1.0 <= action <= 2.0
        assert density is not None
        assert density > 0.0


def test_the_density_is_that_of_a_truncated_normal() -> None:
    """Off-policy estimates of numbers divide by it."""
    policy = number(spread=0.5)

    def cdf(at: float) -> float:
        return (1 + math.erf((at - 0.25) / 0.5 / math.sqrt(2))) / 2

    for each in range(20):
        (action, _, density, _), is_explored = policy.without_model(0.25, f"d{each}".encode())
        assert is_explored
        assert isinstance(action, float)
        bell = math.exp(-(((action - 0.25) / 0.5) ** 2) / 2) / (0.5 * math.sqrt(2 * math.pi))
        assert density == pytest.approx(bell / (cdf(2.0) - cdf(-1.0)))


@pytest.mark.parametrize(("score", "point"), [(-5.0, -1.0), (0.4, 0.5), (0.25, 0.0), (9.0, 2.0)])
def test_a_grid_takes_the_nearest_point(score: float, point: float) -> None:
    """Of two as near it is the lower one, on every machine."""
    assert number(grid=7).choose(of(lambda _: score), (), b"d") == (point, score, 1.0, None)


def test_a_default_beside_the_grid_has_the_share_that_is_not_explored() -> None:
    """Chance takes points only, so nothing is added to it."""
    policy = number(grid=7, epsilon=0.2)
    found = {policy.without_model(0.25, f"d{each}".encode())[0][::2] for each in range(400)}
    likely = dict(found)
    assert likely.pop(0.25) == 0.8
    assert likely == dict.fromkeys([-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0], pytest.approx(0.2 / 7))


def test_a_score_that_is_no_number_is_no_decision() -> None:
    """NaN would be clipped to one end of the range, silently."""
    from tidemill.errors import ModelError

    for policy in (number(), number(spread=0.1), number(grid=5)):
        with pytest.raises(ModelError, match="score is"):
            policy.choose(of(lambda _: math.nan), (), b"d")
