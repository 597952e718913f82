"""What requests have brought to choose among: all items of explored decisions, as they were logged.

Rows of examples have the items that were shown. What a policy would have done instead depends on
all items, so they are read from the decision events in the lake.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from tidemill.features.estimates.intervals import Floats
from tidemill.features.estimates.item_positions import position_weights
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS
from tidemill.features.sql.datasets import OFFSET, PARTITION, POSITION
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.item_rows import LoggedItems
from tidemill.trainers.rows import FALLBACK, Integers, LabeledRows

BLOCK_ROWS = 10_000
"""Rows whose items are in memory together: with 200 items each, two million."""
_NUMBER = "_decision"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedItems:
    """The items of some explored decisions, side by side, and the rows to judge by.

    Attributes:
        features: what a model reads, one row an item.
        ids: of the items.
        at: the time of the decision of each item.
        decision: the number of its decision, from 0.
        place: its place in its request, from 0.
        default: the position at which the default shows it; -1 if it does not.
        rows: the labelled rows of these decisions, up to the last position of the default.
        row_decision: the number of the decision of each row.
        row_position: the position of its item.
        row_place: the place of its item in the request.
        row_weight: what it weighs for a policy that certainly shows its item there.
    """

    features: pl.DataFrame
    ids: pl.Series
    at: pl.Series
    decision: Integers
    place: Integers
    default: Integers
    rows: LabeledRows
    row_decision: Integers
    row_position: Integers
    row_place: Integers
    row_weight: Floats

    @classmethod
    def of(cls, events: pl.DataFrame, rows: LabeledRows, loop: Loop) -> Self:
        """Return what *events*, columns of the raw decisions, say about *rows*."""
        keys = shown_items(rows).frame.select(PARTITION, OFFSET).unique(maintain_order=True)
        items = _explored(_listed(events, keys, loop))
        numbers = items.select(PARTITION, OFFSET, _NUMBER).unique(maintain_order=True)
        at = (items[_NUMBER].to_numpy(), items["_place"].to_numpy())
        decisions = len(numbers)
        first = np.zeros(decisions + 1, dtype=np.int64)
        first[1:] = np.cumsum(np.bincount(at[0], minlength=decisions))
        shown = items.filter(pl.col("_shown") >= 0)
        cell = (shown[_NUMBER].to_numpy(), shown["_shown"].to_numpy())
        size = (decisions, int(cell[1].max()) + 1 if len(shown) else 0)
        propensity, places = np.full(size, np.nan), np.full(size, -1)
        propensity[cell], places[cell] = shown["_chance"].to_numpy(), shown["_place"].to_numpy()
        weight = position_weights(propensity, np.diff(first))
        default = items["_default"].to_numpy()
        until = np.bincount(at[0][default >= 0], minlength=decisions)
        judged, number, position = _judged(rows, numbers, until)
        return cls(
            features=items.select(*loop.model_features),
            ids=items["_id"],
            at=items["_at"],
            decision=at[0],
            place=at[1],
            default=default,
            rows=judged,
            row_decision=number,
            row_position=position,
            row_place=places[number, position],
            row_weight=weight[number, position],
        )

    def matrix(self, values: Floats) -> Floats:
        """Return a value for each item by decision and place; nan where a request has fewer."""
        width = int(self.place.max()) + 1 if self.place.size else 0
        count = int(self.decision[-1]) + 1 if self.decision.size else 0
        found = np.full((count, width), np.nan)
        found[self.decision, self.place] = values
        return found


def shown_items(rows: LabeledRows) -> LoggedItems:
    """Return the items of *rows*, of a loop whose requests bring them."""
    if rows.shown is None:
        raise ValueError("these rows are of a loop without items")
    return rows.shown


def offered_items(
    lake: Lake, loop: Loop, rows: LabeledRows, block_rows: int = BLOCK_ROWS
) -> Iterator[OfferedItems]:
    """Yield the items of the explored decisions of *rows*, block by block, the newest first.

    Args:
        lake: where the events are.
        loop: whose requests bring items.
        rows: the labelled rows.
        block_rows: how many of them a block has, or a few more: no decision is divided.

    Raises:
        LakeError: the lake cannot be read.
    """
    stop = len(rows)
    while stop:
        start = rows.since(rows.at[max(0, stop - block_rows)])
        block = rows.slice(start, stop)
        yield OfferedItems.of(_events(lake, loop, block), block, loop)
        stop = start


def _events(lake: Lake, loop: Loop, rows: LabeledRows) -> pl.DataFrame:
    """Return the decision events of the time of *rows*."""
    first, last = rows.at[0], rows.at[-1]
    wanted = pl.col("at").is_between(first, last)
    wanted &= pl.col("event_date").is_between(first.date(), last.date())
    columns = ["partition", "offset", "at", "source", "baseline", "features", "items"]
    return lake.table(loop.loop, DECISIONS).read(columns, wanted)


def _listed(events: pl.DataFrame, keys: pl.DataFrame, loop: Loop) -> pl.DataFrame:
    """Return one row for each item of the *events* of *keys*, in the order of these."""
    items = loop.decision.items
    named = events.rename({"partition": PARTITION, "offset": OFFSET})
    found = (
        keys.with_row_index("_order")
        .join(named, on=[PARTITION, OFFSET], how="inner", maintain_order="left")
        .with_columns(_place=pl.int_ranges(pl.col("items").list.len()))
    )
    item = pl.col("items").struct
    each = found.explode("items", "_place", empty_as_null=False).select(
        *("_order", PARTITION, OFFSET, "_place", "source", "baseline"),
        item.field("id").alias("_id"),
        item.field("propensity").alias("_chance"),
        item.field("position").fill_null(-1).cast(pl.Int64).alias("_shown"),
        pl.col("at").alias("_at"),
        *(pl.col("features").struct.field(name) for name in loop.features),
        *(item.field("features").struct.field(name) for name in (items.features if items else {})),
    )
    of_baseline = _positions(found, loop)
    joined = each.join(of_baseline, on=["_order", "_id"], how="left", maintain_order="left")
    return joined.with_columns(_default=_default(loop))


def _positions(found: pl.DataFrame, loop: Loop) -> pl.DataFrame:
    """Return the position at which the baseline of a request shows each of its items."""
    baseline = pl.col("baseline")
    if loop.decision.type == "choice":
        baseline = pl.concat_list(baseline)
    known = found.filter(pl.col("baseline").is_not_null())
    return known.select(
        "_order",
        baseline.alias("_id"),
        pl.int_ranges(baseline.list.len()).alias("_baseline"),
    ).explode("_id", "_baseline", empty_as_null=False)


def _default(loop: Loop) -> pl.Expr:
    """Return the position at which the default shows an item; -1 if it does not."""
    place = pl.col("_place")
    if loop.decision.type == "choice":
        place = pl.when(place == 0).then(0).otherwise(-1)
    named = pl.col("_baseline").fill_null(-1)
    return pl.when(pl.col("baseline").is_null()).then(place).otherwise(named).cast(pl.Int64)


def _explored(items: pl.DataFrame) -> pl.DataFrame:
    """Return the items of those decisions that chance decided, with their numbers from 0."""
    by_chance = items.filter(
        (pl.col("_shown") == 0)
        & (pl.col("_chance") > 0.0)
        & (pl.col("_chance") < 1.0)
        & (pl.col("source") != FALLBACK)
    )
    numbers = by_chance.select("_order").with_row_index(_NUMBER).cast({_NUMBER: pl.Int64})
    return items.join(numbers, on="_order", how="inner", maintain_order="left")


def _judged(
    rows: LabeledRows, numbers: pl.DataFrame, until: Integers
) -> tuple[LabeledRows, Integers, Integers]:
    """Return those of *rows* that judge, with the numbers of their decisions, and positions.

    *until* is how many positions the default fills in each decision: behind them there is nothing
    to compare with.
    """
    found = (
        shown_items(rows)
        .frame.with_row_index("_row")
        .join(numbers, on=[PARTITION, OFFSET], how="inner", maintain_order="left")
    )
    number, position = found[_NUMBER].to_numpy(), found[POSITION].cast(pl.Int64).to_numpy()
    known = position < until[number]
    return rows.take(found["_row"].to_numpy()[known]), number[known], position[known]
