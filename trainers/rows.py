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

from tidemill.features.sql.datasets import TrainingSet
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import ACTION

logger = logging.getLogger(__name__)

MAX_LABEL = float(np.finfo(np.float32).max)
"""The largest label: LightGBM reads labels as float32 and makes some number of a larger one."""


def is_learnable() -> pl.Expr:
    """Return whether a row has a label, and one that every learner can read."""
    return pl.col("label").is_not_null() & (pl.col("label").abs() <= MAX_LABEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledRows:
    """Rows of one snapshot, ordered by (at, decision_id).

    *features* holds the loop's features by name and, for a greedy policy, the logged ``action``.
    """

    features: pl.DataFrame
    label: NDArray[np.float64]
    at: pl.Series
    ids: pl.Series
    snapshot: int

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
            features=frame.select(*loop.features, *scored_action(loop)),
            label=frame.get_column("label").to_numpy(),
            at=frame.get_column("at"),
            ids=frame.get_column("decision_id"),
            snapshot=training.version,
        )

    def __len__(self) -> int:
        return self.label.size

    def slice(self, start: int, stop: int) -> "LabeledRows":
        """Return the rows from *start* up to, not including, *stop*."""
        return LabeledRows(
            features=self.features[start:stop],
            label=self.label[start:stop],
            at=self.at[start:stop],
            ids=self.ids[start:stop],
            snapshot=self.snapshot,
        )

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


def scored_action(loop: Loop) -> list[pl.Expr]:
    """Return the logged action as the category a greedy policy scores; nothing for other policies.

    In a ranking, the action is the first item.
    """
    if not loop.scores_actions:
        return []
    action = pl.col(ACTION)
    if loop.decision.type == "ranking":
        action = action.list.first()
    return [action.cast(pl.String).alias(ACTION)]


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
