"""The batch learner: split by time, repeatable to the byte, and the same at serving."""

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from tests.trainers.conftest import START

from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.schemas.models.feature_signature import ACTION
from tidemill.serving.model.forest import Forest, pack
from tidemill.serving.model.model_text import read_text
from tidemill.trainers.evaluation.metrics import roc_auc
from tidemill.trainers.item_rows import MAX_WEIGHT
from tidemill.trainers.learners.batch import LightGBM, parameters, train
from tidemill.trainers.rows import LabeledRows, split

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
MATURITY = timedelta(minutes=31)


def rows_of(lake: Lake, loop: Loop, version: int | None = None) -> LabeledRows:
    """The labelled rows of the lake."""
    return LabeledRows.of(training_set(lake, loop, version=version), loop)


def batch_of(loop: Loop) -> Batch:
    """The batch learner of a loop that has one."""
    assert loop.models.batch is not None
    return loop.models.batch


@pytest.fixture
def rows(lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow) -> LabeledRows:
    """3,000 rows, one a minute."""
    lake.create(make_loop())
    grow(lake, make_rows(3_000))
    return rows_of(lake, make_loop())


def test_later_rows_are_later_and_the_unripe_are_in_neither_part(rows: LabeledRows) -> None:
    """A label that was not known yet when the first later decision was made is the future."""
    earlier, later = split(rows, 0.2, MATURITY)
    assert len(later) == 600
    assert earlier.at[-1] + MATURITY < later.at[0]
    assert len(earlier) == 2_400 - 31


def test_rows_of_one_moment_stay_together(rows: LabeledRows) -> None:
    """The same second in both parts would be one batch of requests in both."""
    same = pl.Series("at", [rows.at[0]] * 1_000 + [rows.at[5]] * 2_000)
    together = LabeledRows(
        features=rows.features, label=rows.label, at=same, ids=rows.ids, snapshot=1
    )
    earlier, later = split(together, 0.5, timedelta(0))
    assert (len(earlier), len(later)) == (1_000, 2_000)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_handful_of_rows_is_no_training_set(
    rows: LabeledRows, make_loop: MakeLoop, count: int
) -> None:
    """The error says what to do instead of a stack trace of LightGBM."""
    earlier, later = split(rows.slice(0, count), 0.5, MATURITY)
    assert len(earlier) == 0
    assert len(later) <= count
    with pytest.raises(ModelError, match="old enough"):
        train(earlier, make_loop(), batch_of(make_loop()))


def test_the_same_inputs_give_the_same_digest(
    rows: LabeledRows, lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """A model can be made again from its record, byte for byte."""
    loop = make_loop()
    first = train(rows, loop, batch_of(loop))
    grow(lake, make_rows(500, first=3_000))
    again = train(rows_of(lake, loop, rows.snapshot), loop, batch_of(loop))
    more = train(rows_of(lake, loop), loop, batch_of(loop))
    assert first.digest == again.digest
    assert first.payload == again.payload
    assert first.digest != more.digest
    assert (first.snapshot, first.rows, first.seed) == (rows.snapshot, 3_000, 7)
    assert set(first.software) == {"python", "tidemill", "lightgbm", "numpy", "polars"}
    assert first.cost.cpu_s > 0


def test_categories_are_kept_as_categories(rows: LabeledRows, make_loop: MakeLoop) -> None:
    """Codes of a category have no order; a split must be a set of words, not 'below 1.5'."""
    loop = make_loop()
    trained = train(rows, loop, batch_of(loop))
    assert trained.signature.fields[2].vocabulary == ("blue", "green", "red")
    assert b"cat_threshold" in trained.payload
    assert "num_cat=0" not in trained.payload.decode().split("Tree=0")[1].split("\n\n")[0]


def test_the_model_knows_more_than_a_coin_on_later_rows(
    rows: LabeledRows, make_loop: MakeLoop
) -> None:
    """The whole path from frame to prediction, on rows it has not seen."""
    loop = make_loop()
    earlier, later = split(rows, 0.2, MATURITY)
    predicted = LightGBM.of(train(earlier, loop, batch_of(loop))).predict(later.features)
    assert roc_auc(later.label, predicted) > 0.7
    assert ((predicted > 0) & (predicted < 1)).all()


def test_a_label_that_is_a_number_is_regressed(rows: LabeledRows, make_loop: MakeLoop) -> None:
    """Minutes late are not a class."""
    loop = make_loop(
        decision={"type": "float", "default": 0.0},
        label={"sql": "max(delay)", "type": "float"},
        policy={"kind": "value"},
    )
    minutes = LabeledRows(
        features=rows.features,
        label=100.0 + 10.0 * rows.label,
        at=rows.at,
        ids=rows.ids,
        snapshot=rows.snapshot,
    )
    trained = train(minutes, loop, batch_of(loop))
    predicted = LightGBM.of(trained).predict(rows.features)
    assert abs(float(np.mean(predicted)) - float(np.mean(minutes.label))) < 0.5
    assert trained.base_rate == pytest.approx(float(np.mean(minutes.label)))


def test_a_greedy_policy_learns_from_the_logged_action(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """The model must be able to tell what each action would bring."""
    loop = make_loop(policy={"kind": "greedy"})
    lake.create(loop)
    examples = make_rows(2_000, signal=0.0)
    worked = examples.with_columns(
        pl.when(pl.col("label") > 0).then(pl.lit("warn")).otherwise(pl.lit("quiet")).alias("action")
    )
    grow(lake, worked)
    found = rows_of(lake, loop)
    trained = train(found, loop, batch_of(loop))
    model = LightGBM.of(trained)
    asked = [
        model.predict(found.features.with_columns(pl.lit(action).alias(ACTION))).mean()
        for action in ("warn", "quiet")
    ]
    assert trained.signature.fields[-1].vocabulary == ("quiet", "warn")
    assert asked[0] - asked[1] > 0.3


def test_a_row_counts_for_those_that_chance_left_out(
    make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """A label of 1 after a rare `warn` and of 0 after a usual one: the rare one stands for many."""
    loop = make_loop(policy={"kind": "greedy"})
    rare = np.arange(2_000) % 2 == 0
    examples = make_rows(2_000, signal=0.0).with_columns(
        pl.lit("warn").alias("action"),
        pl.Series("label", rare.astype(float)),
        pl.Series("propensity", np.where(rare, 0.1, 0.9)),
    )
    rows = LabeledRows.of_examples(examples, loop, 0)
    trained = train(rows, loop, batch_of(loop))
    assert LightGBM.of(trained).predict(rows.features).mean() == pytest.approx(0.9, abs=0.02)
    assert trained.params["max_weight"] == MAX_WEIGHT
    certain = examples.with_columns(pl.lit(1.0).alias("propensity"))
    alike = train(LabeledRows.of_examples(certain, loop, 0), loop, batch_of(loop))
    assert LightGBM.of(alike).predict(rows.features).mean() == pytest.approx(0.5, abs=0.02)


def test_parameters_that_lightgbm_refuses_name_the_place_to_edit(
    rows: LabeledRows, make_loop: MakeLoop
) -> None:
    """A person wrote them in the loop file."""
    loop = make_loop()
    wrong = batch_of(loop).model_copy(update={"params": {"num_leaves": -3}})
    with pytest.raises(ModelError) as error:
        train(rows, loop, wrong)
    assert "models.batch.params" in error.value.hint


def test_text_that_is_no_model_is_a_model_error(rows: LabeledRows, make_loop: MakeLoop) -> None:
    """The registry may hold one of another release."""
    loop = make_loop()
    signature = train(rows, loop, batch_of(loop)).signature
    with pytest.raises(ModelError, match="cannot read"):
        LightGBM(b"no model", signature)


def test_few_positives_are_not_learned_by_heart(make_loop: MakeLoop) -> None:
    """LightGBM's own defaults end far above the base rate, so nothing would ever be promoted."""
    random = np.random.default_rng(5)
    earlier, later = (_rare_rows(random, count) for count in (4_000, 20_000))
    loop = make_loop(features={"a": "float", "b": "float"}, models={"batch": {}, "online": None})
    losses = {}
    asked: dict[str, dict[str, bool | int | float | str]] = {
        "ours": {},
        "LightGBM's": {
            "num_leaves": 31,
            "min_data_in_leaf": 20,
            "learning_rate": 0.1,
            "lambda_l2": 0.0,
            "cat_l2": 10.0,
        },
    }
    for name, params in asked.items():
        trained = train(earlier, loop, Batch(params=params))
        predicted = LightGBM.of(trained).predict(later.features)
        losses[name] = _log_loss(later.label, predicted)
    base = _log_loss(later.label, np.full(len(later), earlier.mean_label))
    assert losses["ours"] < base < losses["LightGBM's"]


def _rare_rows(random: np.random.Generator, count: int) -> LabeledRows:
    a, b = random.normal(size=count), random.normal(size=count)
    label = random.random(count) < 1 / (1 + np.exp(4.1 - a))
    return LabeledRows(
        features=pl.DataFrame({"a": a, "b": b}),
        label=label.astype(float),
        at=pl.Series([START + timedelta(minutes=n) for n in range(count)]),
        ids=pl.Series([str(n) for n in range(count)]),
        snapshot=1,
    )


def _log_loss(label: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    return -float(np.mean(np.log(np.where(label > 0.5, predicted, 1.0 - predicted))))


def test_the_loop_overrides_each_default(make_loop: MakeLoop) -> None:
    """A person who wrote a number gets that number."""
    loop, label = make_loop(), np.array([1.0, 0.0] * 50)
    assert parameters(loop, Batch(), label)["num_leaves"] == 3
    assert parameters(loop, Batch(params={"num_leaves": 9}), label)["num_leaves"] == 9
    assert "num_leaves" not in parameters(loop, Batch(), np.array([1.0, 0.0] * 2_000))


def test_a_label_that_lightgbm_cannot_read_is_left_out(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """It reads labels as float32; of 1e300 it makes some number, and learns that."""
    loop = make_loop(label={"sql": "max(delay)", "type": "float"}, policy={"kind": "greedy"})
    lake.create(loop)
    high = pl.when(pl.int_range(pl.len()) % 10 == 0).then(1e300).otherwise(pl.col("label"))
    grow(lake, make_rows(1_000).with_columns(label=high))
    found = rows_of(lake, loop)
    assert len(found) == 900
    assert found.label.max() == 1.0


TRIED: dict[str, dict[str, bool | int | float | str]] = {
    "boosting": {"boosting": "dart", "drop_rate": 0.5, "skip_drop": 0.1, "max_drop": 3},
    "sampling": {"data_sample_strategy": "goss", "top_rate": 0.3, "other_rate": 0.2},
    "bagging": {"bagging_fraction": 0.5, "bagging_freq": 1, "feature_fraction": 0.5},
    "balance": {"pos_bagging_fraction": 0.5, "neg_bagging_fraction": 0.5, "bagging_freq": 2},
    "trees": {"num_leaves": 63, "max_depth": 4, "min_data_in_leaf": 0, "extra_trees": True},
    "steps": {"max_delta_step": 0.5, "lambda_l1": 1.0, "lambda_l2": 1.0, "path_smooth": 2.0},
    "splits": {"min_gain_to_split": 0.1, "feature_fraction_bynode": 0.5, "use_missing": False},
    "categories": {"min_data_per_group": 1, "max_cat_threshold": 4, "max_cat_to_onehot": 1},
    "weights": {"scale_pos_weight": 3.0, "boost_from_average": False},
    "unbalance": {"is_unbalance": True, "min_sum_hessian_in_leaf": 0.0},
    "dart": {"boosting": "dart", "xgboost_dart_mode": True, "uniform_drop": True},
    "bins": {"max_bin": 15, "min_data_in_bin": 50, "bin_construct_sample_cnt": 500},
}


@pytest.mark.parametrize("params", TRIED.values(), ids=[*TRIED])
def test_a_worker_serves_what_any_allowed_parameter_makes(
    params: dict[str, bool | int | float | str], rows: LabeledRows, make_loop: MakeLoop
) -> None:
    """The gate must not promote what admission refuses."""
    loop = make_loop()
    trained = train(rows, loop, Batch(params=params, rounds=10))
    columns = len(trained.signature.columns)
    trees = Forest(pack(read_text(trained.payload.decode(), columns)), columns)
    encoded = trained.signature.encode_frame(rows.features[:200])
    expected = LightGBM.of(trained).predict(rows.features[:200])
    assert [trees.predict(list(row)) for row in encoded] == list(expected)


@pytest.mark.parametrize("params", [{"boosting": "rf"}, {"machines": "10.0.0.1:1"}])
def test_a_published_loop_with_a_forbidden_parameter_trains_nothing(
    params: dict[str, bool | int | float | str], rows: LabeledRows, make_loop: MakeLoop
) -> None:
    """Whoever may write to the topic of loops need not have run `check`."""
    with pytest.raises(ModelError, match=next(iter(params))):
        train(rows, make_loop(), Batch(params=params))
