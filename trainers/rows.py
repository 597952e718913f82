"""Labelled rows as learners take them: features, label and time in columns, oldest first.

`LabeledRows.of` makes them from a training set of `features/sql/datasets.py`.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.features.estimates.off_policy import Integers as Integers
from tidemill.features.estimates.off_policy import clipped
from tidemill.features.lake.layouts import Rows
from tidemill.features.sql.datasets import BASELINE, PROPENSITY, SOURCE, TrainingSet
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import ACTION, action_text, scored_actions
from tidemill.trainers.item_rows import MAX_WEIGHT, LoggedItems, item_columns

logger = logging.getLogger(__name__)

Selection = slice | Integers

MAX_LABEL = float(np.finfo(np.float32).max)
"""The largest label: LightGBM reads labels as float32 and makes some number of a larger one."""


FALLBACK = "fallback"  # the source of answers that no policy gave: after an error, or too late


def is_learnable() -> pl.Expr:
    """Return whether a row has a label, and one that every learner can read."""
    return pl.col("label").is_not_null() & (pl.col("label").abs() <= MAX_LABEL)


@dataclass(frozen=True, slots=True)
class LoggedActions:
    """What was done in some rows: columns of equal length.

    Attributes:
        action: the number of the logged action among the scored ones; -1 if it is none of them.
        baseline: the same of what the default, or the baseline of the request, would have done.
        propensity: the chance of the logged action; nan if no chance decided, as for a fallback and
            for an action that was certain.
        actions: how many scored actions there are.
    """

    action: Integers
    baseline: Integers
    propensity: NDArray[np.float64]
    actions: int

    @classmethod
    def of(cls, frame: pl.DataFrame, loop: Loop) -> Self:
        """Return the actions of *frame*, which has the columns of `logged_columns`."""
        numbers = {text: number for number, text in enumerate(scored_actions(loop))}
        columns = frame.select(
            pl.col(name).replace_strict(numbers, default=-1, return_dtype=pl.Int64)
            for name in (ACTION, BASELINE)
        )
        chance = frame.get_column(PROPENSITY)
        is_chosen = (chance > 0.0) & (chance < 1.0) & (frame.get_column(SOURCE) != FALLBACK)
        return cls(
            columns.get_column(ACTION).to_numpy(),
            columns.get_column(BASELINE).to_numpy(),
            np.where(is_chosen.fill_null(False).to_numpy(), chance.to_numpy(), np.nan),
            len(numbers),
        )

    def __getitem__(self, rows: Selection) -> "LoggedActions":
        return LoggedActions(
            self.action[rows], self.baseline[rows], self.propensity[rows], self.actions
        )

    def weights(self) -> NDArray[np.float64]:
        """Return the weights with which a model of all actions learns rows that chance selected.

        They make the rows what they would be if each action had the same chance, so that a rare
        action is learned as carefully as the default. Rows without a chance were certain. The
        weights are 1 on average, and at most `MAX_WEIGHT`.
        """
        chance = np.where(np.isfinite(self.propensity), self.propensity, 1.0)
        return clipped(1.0 / (self.actions * chance), MAX_WEIGHT)

    @property
    def is_explored(self) -> NDArray[np.bool_]:
        """Whether a row says something about other policies: chance decided, and is known."""
        known = (self.action >= 0) & (self.baseline >= 0)
        return known & np.isfinite(self.propensity)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledRows:
    """Rows of one snapshot, ordered by (at, decision_id).

    *features* holds the loop's features by name and, where actions are scored, the logged
    ``action``. *logged* has the chances of those actions then. Where requests bring items, there
    is a row for each item that was *shown*, with its features after those of the loop; the rows of
    a decision are ordered by position.
    """

    features: pl.DataFrame
    label: NDArray[np.float64]
    at: pl.Series
    ids: pl.Series
    snapshot: int
    logged: LoggedActions | None = None
    shown: LoggedItems | None = None

    @classmethod
    def of(cls, training: TrainingSet, loop: Loop) -> Self:
        """Return the rows of a training set of *loop* that `is_learnable`."""
        frame = pl.from_arrow(training.table)
        if not isinstance(frame, pl.DataFrame):
            raise TypeError(f"a training set is a table, not {type(frame).__name__}")
        learnable = frame.filter(is_learnable())
        if left_out := len(frame) - len(learnable):
            logger.warning(
                "%d labels of %s are beyond %g and are not learned", left_out, loop.loop, MAX_LABEL
            )
        frame = learnable
        return cls(
            features=frame.select(*loop.model_features, *scored_action(loop)),
            label=frame.get_column("label").to_numpy(),
            at=frame.get_column("at"),
            ids=frame.get_column("decision_id"),
            snapshot=training.version,
            logged=logged_actions(frame, loop),
            shown=LoggedItems.of(frame, loop),
        )

    @classmethod
    def of_examples(cls, examples: pl.DataFrame, loop: Loop, snapshot: int) -> Self:
        """Return the learnable rows of *examples*, which has the columns of that table."""
        frame = logged_columns(learnable(examples, loop), loop)
        by_position = [] if loop.decision.items is None else ["position"]
        frame = frame.sort("at", "decision_id", *by_position)
        return cls(
            features=frame.select(*feature_columns(loop), *scored_action(loop)),
            label=frame.get_column("label").to_numpy(),
            at=frame.get_column("at"),
            ids=frame.get_column("decision_id"),
            snapshot=snapshot,
            logged=logged_actions(frame, loop),
            shown=LoggedItems.of(frame, loop),
        )

    def __len__(self) -> int:
        return self.label.size

    def slice(self, start: int, stop: int) -> "LabeledRows":
        """Return the rows from *start* up to, not including, *stop*."""
        return self._part(slice(start, stop))

    def after(self, at: datetime | None) -> "LabeledRows":
        """Return the rows whose decision is later than *at*; all if that is None."""
        start = 0 if at is None else int(self.at.search_sorted(at, side="right"))
        return self.slice(start, len(self))

    def take(self, rows: "Integers") -> "LabeledRows":
        """Return the rows with these numbers."""
        return self._part(rows)

    def _part(self, rows: Selection) -> "LabeledRows":
        return LabeledRows(
            features=self.features[rows],
            label=self.label[rows],
            at=self.at[rows],
            ids=self.ids[rows],
            snapshot=self.snapshot,
            logged=self.logged[rows] if self.logged else None,
            shown=self.shown[rows] if self.shown else None,
        )

    def weights(self) -> NDArray[np.float64] | None:
        """Return the weight of each row in training; None if all count alike."""
        logged = self.logged or self.shown
        return None if logged is None else logged.weights()

    def since(self, at: datetime) -> int:
        """Return the index of the first row that is not before *at*."""
        return int(self.at.search_sorted(at, side="left"))

    @property
    def last_at(self) -> datetime | None:
        """The time of the newest decision; None if there is no row."""
        return self.at[-1] if len(self) else None

    @property
    def mean_label(self) -> float:
        """The mean label; nan if there is no row."""
        return float(np.mean(self.label)) if len(self) else float("nan")


def feature_columns(loop: Loop) -> list[pl.Expr]:
    """Return the features that a model reads, from the columns of the table ``examples``."""
    items = loop.decision.items
    of_item = {} if items is None else items.features
    return [
        *(pl.col("features").struct.field(name) for name in loop.features),
        *(pl.col("item_features").struct.field(name) for name in of_item),
    ]


def learnable(examples: Rows, loop: Loop) -> Rows:
    """Return the rows of the table ``examples`` that a model of *loop* can learn."""
    wanted = is_learnable()
    if loop.decision.items is not None:
        wanted &= pl.col("position").is_not_null()  # a decision that has shown nothing
    return examples.filter(wanted)


def scored_action(loop: Loop) -> list[pl.Expr]:
    """Return the logged action as the category a model scores; nothing if it scores none.

    In a ranking, the action is the first item.
    """
    return [_as_text(ACTION, loop)] if loop.scores_actions else []


def _as_text(column: str, loop: Loop) -> pl.Expr:
    action = pl.col(column)
    if loop.decision.type == "ranking":
        action = action.list.first()
    return action.cast(pl.String).alias(column)


def logged_actions(frame: pl.DataFrame, loop: Loop) -> LoggedActions | None:
    """Return what was done in the rows of a training set; None if no action is scored."""
    if not loop.scores_actions:
        return None
    default = pl.lit(action_text(loop.decision.default))
    baseline = pl.lit(None, dtype=pl.String)
    if frame.schema[BASELINE] == frame.schema[ACTION]:
        baseline = _as_text(BASELINE, loop)
    columns = (
        _as_text(ACTION, loop),
        pl.coalesce(baseline, default).alias(BASELINE),
        pl.col(PROPENSITY).cast(pl.Float64),
        pl.col(SOURCE),
    )
    return LoggedActions.of(frame.select(columns), loop)


def logged_columns(examples: pl.DataFrame, loop: Loop) -> pl.DataFrame:
    """Return rows of the table ``examples`` with the columns that `logged_actions` reads."""
    if loop.decision.items is not None:
        return item_columns(examples)
    nothing = pl.lit(None)
    propensity = pl.col("propensity")
    if loop.decision.type == "ranking":
        has_each = "propensities" in examples.columns
        propensity = pl.col("propensities").list.first() if has_each else nothing
    return examples.with_columns(
        propensity.alias(PROPENSITY),
        pl.col("source").alias(SOURCE),
        (pl.col("baseline") if "baseline" in examples.columns else nothing).alias(BASELINE),
    )


def training_weights(examples: pl.DataFrame, loop: Loop) -> NDArray[np.float64]:
    """Return the weight of each row of the table ``examples`` in training."""
    frame = logged_columns(examples, loop)
    logged = logged_actions(frame, loop) or LoggedItems.of(frame, loop)
    return np.ones(len(examples)) if logged is None else logged.weights()


def split(
    rows: LabeledRows, holdout: float, maturity: timedelta
) -> tuple[LabeledRows, LabeledRows]:
    """Split *rows* by time into those to train on and the later ones to evaluate on.

    Args:
        rows: oldest first.
        holdout: the share of the newest rows, to evaluate on.
        maturity: how long after its decision a label is known. Rows whose label was not yet known
            at the time of the first later row are in neither part: a model trained at that time
            could not have learned them.
    """
    cut = int(len(rows) * (1.0 - holdout))
    if not 0 < cut < len(rows):
        return rows.slice(0, 0), rows.slice(0, len(rows))
    start: datetime = rows.at[cut]
    later = rows.slice(rows.since(start), len(rows))
    return rows.slice(0, rows.since(start - maturity)), later
