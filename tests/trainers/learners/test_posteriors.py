"""Posteriors are the closed form of Bayesian regression, and become sure where there are rows."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.schemas.models.feature_signature import ACTION
from tidemill.schemas.models.posterior import MAX_COLUMNS, POSTERIOR, Posterior, PosteriorPredictor
from tidemill.trainers.evaluation.evaluation_sets import predictor_of
from tidemill.trainers.learners.batch import Trained
from tidemill.trainers.learners.posteriors import train_posterior
from tidemill.trainers.rows import LabeledRows

START = datetime(2026, 1, 1, tzinfo=UTC)


def loop(kind: str = "linucb") -> Loop:
    """Return a loop of three actions whose policy decides by posteriors."""
    return Loop.model_validate(
        {
            "loop": "news",
            "decision": {"type": "choice", "actions": ["a", "b", "c"], "default": "a"},
            "features": {"segment": "category", "age": {"type": "float", "nullable": True}},
            "feedback": {"clicked": {"within": "1m"}},
            "label": {"sql": "count(*) > 0"},
            "policy": {"kind": kind, "epsilon": 0.1},
        }
    )


def rows(count: int, seed: int = 1) -> LabeledRows:
    """Return rows of the actions a and b: x clicks a, y clicks b; c is never taken."""
    draw = np.random.default_rng(seed)
    segment, action = draw.choice(["x", "y"], count), draw.choice(["a", "b"], count)
    age = [None if number % 9 == 0 else float(draw.normal(40, 10)) for number in range(count)]
    chance = np.where((segment == "x") == (action == "a"), 0.7, 0.1)
    return LabeledRows(
        features=pl.DataFrame({"segment": segment, "age": age, ACTION: action}),
        label=(draw.random(count) < chance).astype(float),
        at=pl.Series([START + timedelta(seconds=number) for number in range(count)]),
        ids=pl.Series([f"d{number}" for number in range(count)]),
        snapshot=3,
    )


def learned(count: int, kind: str = "linucb") -> tuple[Trained, PosteriorPredictor]:
    """Return what is learned of *count* rows."""
    trained = train_posterior(rows(count), loop(kind), Batch(learner="posterior"))
    model = Posterior.from_bytes(trained.payload)
    return trained, PosteriorPredictor(model, trained.signature)


def test_the_best_action_of_each_segment_is_found() -> None:
    """With linear models of flags that is what they are for."""
    _, predictor = learned(2_000)
    for segment, expected in (("x", [0.7, 0.1]), ("y", [0.1, 0.7])):
        means, _ = predictor.beliefs({"segment": segment, "age": 40.0}, ["a", "b"])
        assert means == pytest.approx(expected, abs=0.08)


def test_more_rows_make_it_surer_and_no_rows_leave_the_prior() -> None:
    """An action that was never taken is as good as the mean, and as unsure as can be."""
    row = {"segment": "x", "age": 40.0}
    (few, many) = (learned(count)[1].beliefs(row, ["a", "b", "c"]) for count in (100, 10_000))
    assert many[1][0] < few[1][0] / 5
    trained, predictor = learned(500)
    means, deviations = predictor.beliefs(row, ["a", "c"])
    assert means[1] == trained.base_rate
    assert deviations[1] > 5 * deviations[0]


def test_an_action_that_a_version_adds_has_the_prior_of_one_without_rows() -> None:
    """To the last digits: the noise follows from what the model says of any other action."""
    row = {"segment": "x", "age": 55.0}
    _, predictor = learned(500)
    [mean, new], [deviation, doubt] = predictor.beliefs(row, ["c", "new"])
    assert mean == new
    assert doubt == pytest.approx(deviation, rel=1e-12)
    assert predictor.beliefs(row, ["a"])[1][0] < doubt


def test_it_is_the_closed_form() -> None:
    """Weights and covariance of one action, computed another way."""
    trained, _ = learned(300, "ucb")
    model = Posterior.from_bytes(trained.payload)
    assert (model.scales, model.flags) == ((), ()), "ucb reads no feature"
    data = rows(300)
    of_a = data.label[data.features[ACTION].to_numpy() == "a"] - model.base
    (weight,), (factor,) = model.actions[0].weights, model.actions[0].factor
    assert weight == pytest.approx(of_a.sum() / (1 + len(of_a)))
    assert factor**2 == pytest.approx(np.var(data.label) / (1 + len(of_a)))


def test_the_same_rows_give_the_same_bytes_and_frames_the_same_scores() -> None:
    """A model must name what it was trained on, and nothing else may matter."""
    trained, predictor = learned(400)
    assert trained.payload == learned(400)[0].payload
    frame = rows(20).features
    found = predictor_of(POSTERIOR, trained.payload, trained.signature).predict(frame)
    assert found.tolist() == [predictor.score(row) for row in frame.iter_rows(named=True)]


def test_the_most_frequent_words_are_read_where_there_are_too_many() -> None:
    """A decision costs the square of the columns; rare words are worth the least."""
    data = rows(2_000)
    words = [f"w{number % 300 if number % 2 else 0}" for number in range(2_000)]
    many = LabeledRows(
        features=data.features.with_columns(pl.Series("segment", words)),
        label=data.label,
        at=data.at,
        ids=data.ids,
        snapshot=1,
    )
    trained = train_posterior(many, loop(), Batch(learner="posterior"))
    model = Posterior.from_bytes(trained.payload)
    assert 1 + len(model.scales) + len(model.flags) == MAX_COLUMNS
    assert "segment=w0" in model.flags


def test_without_rows_there_is_no_model() -> None:
    """The trainer waits for labels that are old enough."""
    with pytest.raises(ModelError, match="old enough"):
        train_posterior(rows(0), loop(), Batch(learner="posterior"))
