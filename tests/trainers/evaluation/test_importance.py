"""What a feature is worth to a model is measured on rows that the model has not learned."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.deploy.explain.decided import (
    LEARNERS,
    LOOPS,
    START,
    examples,
    labelled,
    trained,
    version,
)

from tidemill.errors import RequestError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.trainers.evaluation.evaluation_sets import load_model
from tidemill.trainers.evaluation.importance import (
    ModelImportance,
    importance_of,
    named_model,
    permuted,
)
from tidemill.trainers.registry import ModelVersion, Registry

LOOP = LOOPS["greedy"]
ROWS = 1_200


def measured(learner: str, repeats: int = 3) -> ModelImportance:
    """Return the importance for a model by *learner*, on rows of another seed."""
    model = trained(LOOP, learner)
    record = version(LOOP, model, 1)
    loaded = load_model(record, model.payload)
    return permuted(loaded, record, LOOP, labelled(LOOP, ROWS, seed=8), repeats=repeats)


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_feature_that_makes_the_label_is_worth_more_than_one_that_does_not(learner: str) -> None:
    """The label is made of visits, country and action; the rest is noise."""
    found = measured(learner)
    order = [each.name for each in found.features]
    assert set(order) == {*LOOP.features, "action"}
    assert order[0] == "visits"
    worth = {each.name: each for each in found.features}
    assert worth["visits"].low > 0.01
    assert abs(worth["amount"].mean) < 0.1 * worth["visits"].mean
    assert all(each.low <= each.mean <= each.high for each in found.features)
    assert found == measured(learner), "the same rows give the same figures"


@pytest.mark.slow
def test_only_trees_have_a_gain() -> None:
    """The shares of all splits are a whole; a linear model has none."""
    by_trees, linear = (measured(learner).features for learner in LEARNERS)
    assert sum(each.gain or 0.0 for each in by_trees) == pytest.approx(1.0)
    assert max(by_trees, key=lambda each: each.gain or 0.0).name == "visits"
    assert {each.gain for each in linear} == {None}


@pytest.mark.slow
def test_a_posterior_is_measured_by_its_squared_error() -> None:
    """It may predict a probability below 0, of which a log loss makes a catastrophe."""
    loop = LOOPS["linucb"]
    model = trained(loop, "posterior")
    record = version(loop, model, 1)
    loaded = load_model(record, model.payload)
    found = permuted(loaded, record, loop, labelled(loop, ROWS, seed=8), repeats=2)
    assert found.metric == "mse"
    assert found.features[0].name == "visits"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with a model and examples, the last third of which it has not learned."""
    made = Lake(LakeConfig(root=str(tmp_path_factory.mktemp("lake"))))
    made.create(LOOP)
    rows = examples(LOOP, labelled(LOOP, ROWS)).drop("event_date")
    made.table(LOOP.loop, EXAMPLES).append(rows, swaps=[])
    return made


def registered(lake: Lake, learned: int) -> ModelVersion:
    """Add a model that has learned so many of the rows to the registry, and return it."""
    registry, model = Registry(lake, LOOP.loop), trained(LOOP, "lightgbm")
    record = version(LOOP, model, registry.next_number())
    record = replace(record, later_from=START + timedelta(seconds=learned))
    registry.add(record, model.payload)
    return record


@pytest.mark.slow
def test_rows_that_the_model_has_learned_do_not_count(lake: Lake) -> None:
    """On rows that it knows by heart, every feature looks important."""
    record = registered(lake, ROWS * 2 // 3)
    found = importance_of(lake, LOOP, named_model(lake, LOOP, record.version), repeats=2)
    assert found.rows == ROWS // 3
    assert found.first_at == record.later_from
    assert named_model(lake, LOOP, None) == record


@pytest.mark.slow
def test_without_later_rows_or_without_the_model_it_says_what_to_do(lake: Lake) -> None:
    """A figure from five rows is worse than none."""
    record = registered(lake, ROWS - 5)
    with pytest.raises(RequestError, match="5 labelled decisions are later") as caught:
        importance_of(lake, LOOP, record, repeats=2)
    assert "wait for more labels" in caught.value.hint
    with pytest.raises(RequestError, match="has no model 'nobody-3'"):
        named_model(lake, LOOP, "nobody-3")


def test_without_a_live_model_one_has_to_be_named(tmp_path: Path) -> None:
    """There is nothing that decides, so there is nothing to look at."""
    empty = Lake(LakeConfig(root=str(tmp_path)))
    empty.create(LOOP)
    with pytest.raises(RequestError, match="no model of banner is live"):
        named_model(empty, LOOP, None)
