"""The online learner: each example once, predicted first, and the same model after any kill."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from river import compose, linear_model, optim, preprocessing

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.models.river_state import LinearPredictor, LinearState
from tidemill.trainers.evaluation.evaluation_sets import predictor_of
from tidemill.trainers.learners.online import OnlineLearner, feature_rows

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
FIXTURES = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def online_of(loop: Loop) -> Online:
    """The online learner of a loop that has one."""
    assert loop.models.online is not None
    return loop.models.online


def commits(rows: pl.DataFrame, sizes: list[int]) -> list[tuple[int, pl.DataFrame]]:
    """Cut *rows* into commits of these sizes; the last takes the rest."""
    edges = [*np.minimum(np.cumsum([0, *sizes]), rows.height).tolist(), rows.height]
    return [(version, rows[start:stop]) for version, (start, stop) in enumerate(pairwise(edges), 1)]


def loop_of(make_loop: MakeLoop, learner: str, **online: float) -> Loop:
    """A loop with this online learner, and a label that it can learn."""
    models = {"online": {"learner": learner, **online}}
    if learner == "logistic_regression":
        return make_loop(models=models)
    return make_loop(
        decision={"type": "float", "default": 0.0},
        label={"sql": "max(delay)", "type": "float"},
        policy={"kind": "value"},
        models=models,
    )


@pytest.mark.slow
@FIXTURES
@given(
    sizes=st.lists(st.integers(0, 60), max_size=8),
    kills=st.lists(st.integers(0, 8), max_size=4),
    learner=st.sampled_from(["logistic_regression", "linear_regression"]),
    l2=st.sampled_from([0.0, 0.01]),
)
def test_a_kill_at_any_commit_resumes_to_the_same_bits(
    make_loop: MakeLoop,
    make_rows: MakeRows,
    sizes: list[int],
    kills: list[int],
    learner: str,
    l2: float,
) -> None:
    """The state travels as bytes; what is learned after it must not depend on that."""
    loop = loop_of(make_loop, learner, l2=l2)
    log = commits(make_rows(300), sizes)
    straight, killed = OnlineLearner(loop, online_of(loop)), OnlineLearner(loop, online_of(loop))
    for version, rows in log:
        straight.learn(version, rows)
        killed.learn(version, rows)
        if version in kills:
            state = LinearState.from_bytes(killed.state().to_bytes())
            killed = OnlineLearner(loop, online_of(loop), state)
            for before in range(1, version + 1):  # commits it has learned already
                assert killed.learn(before, log[before - 1][1]).predictions.is_empty()
    assert killed.state().to_bytes() == straight.state().to_bytes()


@pytest.mark.parametrize("learner", ["logistic_regression", "linear_regression"])
def test_serving_predicts_the_same_bits_as_river(
    make_loop: MakeLoop, make_rows: MakeRows, learner: str
) -> None:
    """Plain Python in the worker, River in the trainer, one number."""
    loop = loop_of(make_loop, learner)
    trained = OnlineLearner(loop, online_of(loop))
    trained.learn(1, make_rows(2_000))
    state = LinearState.from_bytes(trained.payload())
    predictor = LinearPredictor(state, trained.signature)
    odd: list[dict[str, object]] = [
        {},
        {"hour": None, "wind": None, "line": None, "tags": None},
        {"hour": 10**9, "wind": -1e300, "line": "new", "tags": ["x", "new", "x"]},
        {"wind": math.nan},
        {"wind": math.inf, "line": "red"},
    ]
    for row in [*feature_rows(make_rows(500, first=5_000), loop), *odd]:
        assert predictor.score(row) == trained.predict_one(row), row


def test_it_is_river_s_own_pipeline(make_loop: MakeLoop, make_rows: MakeRows) -> None:
    """Oracle: River's compose, numbers scaled and flags beside them, learning one by one."""
    loop = make_loop()
    ours = OnlineLearner(loop, online_of(loop))
    rows = make_rows(400)
    ours.learn(1, rows)
    pipeline = compose.TransformerUnion(
        compose.SelectType(float) | preprocessing.StandardScaler(),
        compose.SelectType(bool),
    ) | linear_model.LogisticRegression(optimizer=optim.SGD(0.05))
    ordered = rows.sort("partition", "offset")
    theirs = []
    for row, label in zip(feature_rows(ordered, loop), ordered["label"].to_list(), strict=True):
        numbers = {name: float(row[name]) for name in ("hour", "wind") if row[name] is not None}  # type: ignore[arg-type]
        flags = {str(row["line"]): True} | {f"tags={tag}": True for tag in row["tags"]}  # type: ignore[attr-defined]
        theirs.append(pipeline.predict_proba_one(numbers | flags)[True])
        pipeline.learn_one(numbers | flags, label)
    again = OnlineLearner(loop, online_of(loop)).learn(1, rows)
    assert again.predictions["prequential"].to_list() == pytest.approx(theirs, abs=1e-9)


def test_it_predicts_before_it_learns(make_loop: MakeLoop, make_rows: MakeRows) -> None:
    """The first prediction is made before any label; on pure noise none is better than a coin."""
    loop = make_loop()
    learned = OnlineLearner(loop, online_of(loop)).learn(1, make_rows(50))
    assert learned.predictions["prequential"][0] == 0.5
    noise = OnlineLearner(loop, online_of(loop))
    told = noise.learn(1, make_rows(4_000, signal=0.0)).predictions
    rate = told["label"].mean()
    assert isinstance(rate, float)
    coin = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert noise.loss_sum / noise.rows > coin


def test_the_prequential_loss_is_that_of_its_predictions(
    make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """Two ways to the same number: kept with the state, and from the kept predictions."""
    loop = make_loop()
    learner = OnlineLearner(loop, online_of(loop))
    told = learner.learn(1, make_rows(500)).predictions
    label, predicted = told["label"].to_numpy(), told["prequential"].to_numpy()
    lost = -(label * np.log(predicted) + (1 - label) * np.log1p(-predicted))
    assert learner.state().loss_sum == pytest.approx(float(lost.sum()))


def test_rows_are_learned_in_the_order_of_the_log(make_loop: MakeLoop, make_rows: MakeRows) -> None:
    """Files come in no order; the log does. Rows without a label are not learned."""
    loop = make_loop()
    rows = make_rows(200)
    ordered, shuffled = OnlineLearner(loop, online_of(loop)), OnlineLearner(loop, online_of(loop))
    unlabelled = make_rows(50, first=900).with_columns(
        pl.lit(None, dtype=pl.Float64).alias("label")
    )
    ordered.learn(1, rows)
    shuffled.learn(1, pl.concat([unlabelled, rows]).sample(fraction=1.0, shuffle=True, seed=4))
    assert ordered.state() == shuffled.state()


def test_another_rate_is_another_learner(make_loop: MakeLoop, make_rows: MakeRows) -> None:
    """Going on with half of the old settings would be a model nobody asked for."""
    loop = make_loop()
    learner = OnlineLearner(loop, online_of(loop))
    learner.learn(1, make_rows(100))
    faster = online_of(loop).model_copy(update={"learning_rate": 0.5})
    assert OnlineLearner(loop, faster, learner.state()).learned_until == -1
    assert OnlineLearner(loop, online_of(loop), learner.state()).learned_until == 1


def test_a_diverged_learner_says_so_and_starts_anew(
    make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """Infinity never comes back by learning more."""
    loop = loop_of(make_loop, "linear_regression", learning_rate=1e300)
    learner = OnlineLearner(loop, online_of(loop))
    learner.learn(1, make_rows(2_000))
    with pytest.raises(ModelError, match="diverged") as error:
        learner.state()
    assert "learning_rate" in error.value.hint
    learner.restart()
    assert learner.state().learned_until == 1


def test_a_published_state_predicts_frames(make_loop: MakeLoop, make_rows: MakeRows) -> None:
    """The gate asks it for the same rows as everyone."""
    loop = make_loop()
    learner = OnlineLearner(loop, online_of(loop))
    learner.learn(1, make_rows(500))
    rows = make_rows(20, first=600)
    frozen = predictor_of("logistic_regression", learner.state().to_bytes(), learner.signature)
    expected = [learner.predict_one(row) for row in feature_rows(rows, loop)]
    assert frozen.predict(rows.unnest("features")).tolist() == expected


def test_one_absurd_number_does_not_end_the_learner(
    make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """A service sent 1e300 once; its square would make the variance infinite for ever."""
    loop = make_loop()
    learner = OnlineLearner(loop, online_of(loop))
    rows = make_rows(10)
    absurd = rows.with_columns(pl.col("features").struct.with_fields(pl.lit(1e300).alias("wind")))
    learner.learn(1, absurd)
    assert learner.state().rows == 10


def test_a_row_counts_for_those_that_chance_left_out(
    make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """A label of 1 after a rare action and of 0 after a usual one: the rare one stands for many."""
    loop = make_loop(policy={"kind": "greedy"})
    rare = np.random.default_rng(4).random(2_000) < 0.5
    examples = make_rows(2_000, signal=0.0).with_columns(
        pl.lit("warn").alias("action"),
        pl.Series("label", rare.astype(float)),
        pl.Series("propensity", np.where(rare, 0.1, 0.9)),
    )
    certain = examples.with_columns(pl.lit(1.0).alias("propensity"))
    means = []
    for rows in (examples, certain):
        learner = OnlineLearner(loop, online_of(loop))
        learned = learner.learn(1, rows)
        means.append(np.mean([learner.predict_one(row) for row in learned.rows]))
    assert means[0] > 0.8
    assert means[1] == pytest.approx(0.5, abs=0.1)
