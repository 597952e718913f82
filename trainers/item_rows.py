"""The items that were shown in labelled rows, with the chances that showed them.

A row is one shown item. What else its request brought is in the decision event, which
`evaluation/offered_items.py` reads where policies are compared.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.features.estimates.off_policy import clipped
from tidemill.features.sql.datasets import OFFSET, PARTITION, POSITION, PROPENSITY
from tidemill.schemas.loop.definition import Loop

MAX_WEIGHT = 20.0
"""The largest weight of a row in training: rarer actions count less than their propensity says."""

_STEPS = 50  # until the mean of the clipped weights no longer changes: it grows at each by a share

_COLUMNS = (PARTITION, OFFSET, POSITION, PROPENSITY)


@dataclass(frozen=True, slots=True)
class LoggedItems:
    """The place of each row in the log, and its chance.

    *frame* has the columns ``_partition`` and ``_offset``, which name the decision, ``_position``,
    and ``_propensity``, which is null where no chance is known.
    """

    frame: pl.DataFrame

    @classmethod
    def of(cls, frame: pl.DataFrame, loop: Loop) -> Self | None:
        """Return the items of the rows of a training set; None if requests bring none."""
        return None if loop.decision.items is None else cls(frame.select(_COLUMNS))

    def __getitem__(self, rows: "slice | NDArray[np.integer]") -> "LoggedItems":
        return LoggedItems(self.frame[rows])

    def weights(self) -> NDArray[np.float64]:
        """Return the weights with which a model learns the rows: 1 / propensity, 1 on average.

        They make the rows what they would be if each item of each request had been shown as often
        as any other. None is above `MAX_WEIGHT`. How many items a request has brought is not known
        here, so the mean of the clipped rows stands for it.
        """
        chance = self.frame.get_column(PROPENSITY).cast(pl.Float64).fill_null(1.0).to_numpy()
        with np.errstate(over="ignore"):
            rarity = 1.0 / np.where((chance > 0.0) & (chance <= 1.0), chance, 1.0)
        mean = 1.0
        for _ in range(_STEPS if rarity.size else 0):
            mean = float(np.minimum(rarity, MAX_WEIGHT * mean).mean())
        return clipped(rarity / mean, MAX_WEIGHT)


def item_columns(examples: pl.DataFrame) -> pl.DataFrame:
    """Return rows of the table ``examples`` with the columns that `LoggedItems` reads."""
    return examples.with_columns(
        pl.col("partition").alias(PARTITION),
        pl.col("offset").alias(OFFSET),
        pl.col("position").alias(POSITION),
        pl.col("item_propensity").alias(PROPENSITY),
    )
