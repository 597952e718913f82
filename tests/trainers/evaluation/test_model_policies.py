"""What a model does as a policy is what a worker would do with it."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from tests.trainers.simulation import World, headline_loop

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import (
    ACTION,
    FeatureSignature,
    SignatureField,
    scored_actions,
)
from tidemill.serving.policies.discrete import softmax_weights
from tidemill.trainers.evaluation.model_policies import action_scores, chances, model_chances
from tidemill.trainers.evaluation.rewards import Rewards

MakeLoop = Callable[..., Loop]
BANNER = {
    "decision": {"type": "bool", "default": False},
    "policy": {"kind": "threshold", "threshold": 0.3},
    "label": {"sql": "max(delay) > 5", "depends_on": "action"},
}


class ByAction:
    """Scores the actions of a row by their names, and rows without an action by `hour`."""

    def predict(self, features: pl.DataFrame) -> Floats:
        """Return the score of each row."""
        if ACTION not in features.columns:
            return features.get_column("hour").cast(pl.Float64).to_numpy()
        return features.get_column(ACTION).str.len_chars().cast(pl.Float64).to_numpy()


def test_each_action_of_each_row_is_scored() -> None:
    """Columns are in the order of the loop file."""
    loop = headline_loop(World(np.full((1, 2), 0.1)))
    frame = pl.DataFrame({"segment": ["a", "b"], ACTION: ["?", "?"]})
    assert action_scores(ByAction(), frame, loop).tolist() == [[10.0, 10.0], [10.0, 10.0]]


def test_the_best_action_is_taken_and_of_equal_ones_the_first() -> None:
    """As the worker's policy does."""
    loop = headline_loop(World(np.full((1, 3), 0.1)))
    scores = np.array([[0.1, 0.3, 0.3], [0.2, 0.2, 0.2], [0.0, 0.1, 0.4]])
    assert chances(scores, loop).argmax(axis=1).tolist() == [1, 0, 2]
    assert chances(scores, loop).sum(axis=1).tolist() == [1.0, 1.0, 1.0]


def test_softmax_draws_as_a_worker_does() -> None:
    """Its draws are the policy, so they are judged and not taken for exploration."""
    loop = headline_loop(World(np.full((1, 3), 0.1)), kind="softmax", temperature=0.2, epsilon=0.0)
    scores = [0.1, 0.5, 0.3]
    weights = softmax_weights(scores, 0.2)
    expected = [weight / sum(weights) for weight in weights]
    assert chances(np.array([scores]), loop).tolist() == [pytest.approx(expected)]


def test_a_threshold_compares_what_acting_adds(make_loop: MakeLoop) -> None:
    """A guest who buys anyway needs no banner."""
    loop = make_loop(**BANNER)
    assert scored_actions(loop) == ["false", "true"]
    scores = np.array([[0.0, 0.4], [0.5, 0.7], [0.25, 0.5625]])
    assert chances(scores, loop)[:, 1].tolist() == [1.0, 0.0, 1.0]


def test_a_model_of_an_earlier_release_keeps_its_threshold(make_loop: MakeLoop) -> None:
    """It predicts the label without the action, and still serves after the upgrade."""
    loop = make_loop(**BANNER)
    frame = pl.DataFrame({"hour": [0, 1]})
    old = FeatureSignature((SignatureField("hour", loop.features["hour"].type),))
    assert model_chances(ByAction(), old, frame, loop)[:, 1].tolist() == [0.0, 1.0]


def test_the_default_reward_is_the_label_less_the_cost_of_acting(make_loop: MakeLoop) -> None:
    """Then acting pays exactly if it adds more than the threshold."""
    rewards = Rewards(make_loop(**BANNER))
    assert rewards.of(np.array([1.0, 1.0, 0.0]), np.array([0, 1, 1])).tolist() == [1.0, 0.7, -0.3]
    found = rewards.expected(np.array([[0.2, 0.6]]))
    assert found.tolist() == [pytest.approx([0.2, 0.3])]
    headlines = Rewards(headline_loop(World(np.full((1, 2), 0.1))))
    assert headlines.of(np.array([1.0]), np.array([1])).tolist() == [1.0]


def test_a_stated_reward_replaces_the_default(make_loop: MakeLoop) -> None:
    """By SQL over label and action, on logged and on predicted labels."""
    loop = make_loop(**BANNER, gate={"reward": "10 * label - case when action then 1 else 0 end"})
    rewards = Rewards(loop)
    assert rewards.of(np.array([1.0, 1.0, 0.0]), np.array([0, 1, 1])).tolist() == [10.0, 9.0, -1.0]
    assert rewards.expected(np.array([[0.2, 0.6]])).tolist() == [pytest.approx([2.0, 5.0])]


def test_a_reward_of_a_number_is_that_of_the_predicted_one(make_loop: MakeLoop) -> None:
    """Money is linear in money."""
    label = {"sql": "max(delay)", "type": "float", "depends_on": "action"}
    loop = make_loop(**{**BANNER, "label": label}, gate={"reward": "2 * label"})
    assert Rewards(loop).expected(np.array([[3.0, 5.0]])).tolist() == [[6.0, 10.0]]
