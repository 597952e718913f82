"""Logged actions: what a row says about policies that would have acted otherwise."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.features.lake.lake import Lake
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.item_rows import MAX_WEIGHT
from tidemill.trainers.rows import LabeledRows, LoggedActions

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
GREEDY = {"kind": "greedy", "epsilon": 0.2}


def logged(loop: Loop, rows: pl.DataFrame) -> LoggedActions:
    """Return the logged actions of examples of *loop*."""
    found = LabeledRows.of_examples(rows, loop, 0).logged
    assert found is not None
    return found


def test_a_label_of_the_world_needs_no_chances(make_loop: MakeLoop, make_rows: MakeRows) -> None:
    """Each of its rows judges each model, and all rows count alike."""
    rows = LabeledRows.of_examples(make_rows(10), make_loop(), 0)
    assert rows.logged is None
    assert rows.weights() is None


@pytest.mark.parametrize(
    ("source", "propensity", "says_something"),
    [
        ("model", 0.9, True),
        ("explore", 0.1, True),
        ("default", 0.9, True),
        ("default", 1.0, False),
        ("model", 1.0, False),
        ("fallback", 0.9, False),
        ("fallback", 1.0, False),
        ("model", None, False),
        ("model", 0.0, False),
    ],
)
def test_only_what_chance_decided_says_something_about_others(
    make_loop: MakeLoop,
    make_rows: MakeRows,
    source: str,
    propensity: float | None,
    says_something: bool,
) -> None:
    """Neither a fallback nor an answer that was certain enters an estimate."""
    rows = make_rows(4).with_columns(
        pl.lit(source).alias("source"), pl.lit(propensity, dtype=pl.Float64).alias("propensity")
    )
    found = logged(make_loop(policy=GREEDY), rows)
    assert found.is_explored.tolist() == [says_something] * 4
    assert found.action.tolist() == found.baseline.tolist() == [1] * 4


def test_an_action_that_the_loop_no_longer_has_says_nothing(
    make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """An earlier version had it; no candidate can take it."""
    rows = make_rows(3).with_columns(pl.lit("shout").alias("action"), propensity=pl.lit(0.5))
    assert not logged(make_loop(policy=GREEDY), rows).is_explored.any()


def test_the_baseline_of_a_request_is_its_default(make_loop: MakeLoop, make_rows: MakeRows) -> None:
    """Older lakes have no such column, and rows without one mean the default of the loop."""
    rows = make_rows(3).with_columns(pl.Series("baseline", ["warn", None, "quiet"]))
    assert logged(make_loop(policy=GREEDY), rows).baseline.tolist() == [0, 1, 1]


def test_a_ranking_is_judged_by_its_first_action(make_loop: MakeLoop, make_rows: MakeRows) -> None:
    """By the propensity of that position; that of a whole order says nothing about it."""
    loop = make_loop(
        policy=GREEDY,
        decision={"type": "ranking", "actions": ["warn", "quiet"], "default": ["quiet", "warn"]},
    )
    rows = make_rows(2).with_columns(
        pl.Series("action", [["warn", "quiet"], ["quiet", "warn"]]), propensity=pl.lit(0.5)
    )
    assert not logged(loop, rows).is_explored.any()
    newer = rows.with_columns(pl.Series("propensities", [[0.2, 1.0], [0.8, 1.0]]))
    found = logged(loop, newer)
    assert found.action.tolist() == [0, 1]
    assert found.propensity.tolist() == [0.2, 0.8]
    assert found.baseline.tolist() == [1, 1]


RANKING = {"type": "ranking", "actions": ["warn", "quiet"], "default": ["quiet", "warn"]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_a_training_set_says_the_same_as_the_commits(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow, kind: str
) -> None:
    """The gate reads the one, the watch the others; both judge the same decisions."""
    loop = make_loop(policy=GREEDY, **({"decision": RANKING} if kind == "ranking" else {}))
    rows = make_rows(30)
    chance = np.where(np.arange(30) % 3, 0.9, 0.1)
    if kind == "choice":
        rows = rows.with_columns(
            pl.Series("propensity", chance), pl.Series("baseline", ["warn"] * 10 + [None] * 20)
        )
    else:
        rows = rows.with_columns(
            pl.Series("action", [["quiet", "warn"]] * 15 + [["warn", "quiet"]] * 15),
            pl.Series("propensities", [[each, 1.0] for each in chance.tolist()]),
            pl.Series("baseline", [["warn", "quiet"]] * 10 + [None] * 20),
        )
    lake.create(loop)
    grow(lake, rows)
    trained = LabeledRows.of(training_set(lake, loop), loop)
    committed = LabeledRows.of_examples(rows, loop, 0)
    assert trained.logged is not None
    assert committed.logged is not None
    assert trained.ids.to_list() == committed.ids.to_list()
    assert trained.features.get_column("action").equals(committed.features.get_column("action"))
    for name in ("action", "baseline", "propensity"):
        first, second = getattr(trained.logged, name), getattr(committed.logged, name)
        assert first.tolist() == second.tolist()
    assert trained.logged.baseline.tolist() == [0] * 10 + [1] * 20
    assert trained.logged.is_explored.all()


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20), st.integers(2, 10))
def test_weights_are_clipped_and_one_on_average(chances: list[float], actions: int) -> None:
    """A row of a rare action counts for those that were not taken, up to a limit."""
    nothing = np.zeros(len(chances), dtype=np.int64)
    found = LoggedActions(nothing, nothing, np.array(chances), actions).weights()
    assert (found <= MAX_WEIGHT).all()
    wanted = [min(1 / (actions * chance), MAX_WEIGHT) for chance in chances]
    assert found.tolist() == pytest.approx(wanted)
    uniform = LoggedActions(nothing, nothing, np.full(len(chances), 1 / actions), actions)
    assert uniform.weights().tolist() == pytest.approx([1.0] * len(chances))
