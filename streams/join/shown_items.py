"""The items that decisions have shown: at the close of a decision, each becomes an example.

Until then a decision is one row with the list of its items. A decision that has shown none has one
row without an item, which no feedback falls on.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from tidemill.schemas.events.schemas import ITEM_FIELDS, orders_of_items
from tidemill.streams.join.matching import Pairs
from tidemill.streams.state.row_buffer import RowBuffer
from tidemill.streams.units import Bools, Int64s

IS_TAKEN = (pl.col("item").is_null() & pl.col("shown").is_not_null()) | (
    pl.col("item") == pl.col("shown")
)
"""True for feedback that names the item *shown*, or none where one was shown."""


@dataclass(frozen=True, slots=True)
class ShownItems:
    """The rows of some decisions, by decision and position, one for each item that was shown.

    *rows* have the columns of the decisions, but `ITEM_FIELDS` instead of the list, and null where
    a decision names an order of all its items. *decision* is the number of the decision of each
    row, ascending.
    """

    rows: pl.DataFrame
    decision: Int64s

    @classmethod
    def of(cls, decisions: pl.DataFrame) -> "ShownItems":
        """Return the rows of *decisions*, which have a list of items each."""
        decision, shown = _shown(decisions["items"])
        none = np.setdiff1d(np.arange(len(decisions)), decision)
        if len(none):
            decision = np.concatenate((decision, none))
            shown = pl.concat([shown, shown.clear(len(none))])
            order = np.argsort(decision, kind="stable")
            decision, shown = decision[order], shown[order]
        orders = orders_of_items(decisions.schema)
        nulls = [pl.lit(None, decisions.schema[name]).alias(name) for name in orders]
        once = decisions.drop("items").with_columns(nulls)
        return cls(once[decision].hstack(shown), decision)

    def takes(self, pairs: Pairs, item: pl.Series) -> Bools:
        """Return which of *pairs*, whose feedback names *item* or none, an item of these takes."""
        taken = np.zeros(len(pairs.rows), dtype=np.bool_)
        taken[self._hits(pairs, item)["pair"].to_numpy()] = True
        return taken

    def spread(self, pairs: Pairs, item: pl.Series) -> Pairs:
        """Return *pairs* with the numbers of rows, not of decisions.

        Feedback that names no item is there once for each row with an item.
        """
        hits = self._hits(pairs, item).sort("pair", "row")
        return Pairs(hits["row"].to_numpy(), pairs.rows[hits["pair"].to_numpy()])

    def _hits(self, pairs: Pairs, item: pl.Series) -> pl.DataFrame:
        """Return each *row* that takes a *pair*, by their numbers."""
        asked = pl.DataFrame({"decision": pairs.decision, "item": item}).with_row_index("pair")
        shown = pl.DataFrame({"decision": self.decision, "item": self.rows["item"]})
        shown = shown.with_row_index("row").drop_nulls("item")
        is_named = pl.col("item").is_not_null()
        named = asked.filter(is_named).join(shown, on=["decision", "item"])
        whole = asked.filter(~is_named).join(shown, on="decision")
        hits = pl.concat([part.select("pair", "row") for part in (named, whole)])
        return hits.cast(pl.Int64)


def _shown(items: pl.Series) -> tuple[Int64s, pl.DataFrame]:
    """Return the items that have a position, by decision and position, and their decisions.

    If a decision has two with one position, the first of them counts.
    """
    counts = items.list.len().fill_null(0).cast(pl.Int64)
    each = items.filter(counts > 0).explode()
    decision = np.repeat(np.arange(len(items)), counts.to_numpy())
    positions = each.struct.field("position")
    is_shown = positions.is_not_null()
    each, decision = each.filter(is_shown), decision[is_shown.to_numpy()]
    position = positions.filter(is_shown).cast(pl.Int64).to_numpy()
    order = np.lexsort((position, decision))
    decision, position = decision[order], position[order]
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = (np.diff(decision) != 0) | (np.diff(position) != 0)
    each = each[order[is_first]]
    columns = [each.struct.field(part).alias(name) for name, part in ITEM_FIELDS.items()]
    return decision[is_first], pl.DataFrame(columns)


def untaken(answers: pl.DataFrame, examples: pl.DataFrame) -> Int64s:
    """Return the *row* of each of *answers* that none of the items in *examples* takes.

    *answers* are feedback of decisions that were *made* at a time, all of them in *examples*.
    """
    shown = examples.select("decision_id", made="at", shown="item").drop_nulls("shown")
    taken = answers.join(shown, on=["decision_id", "made"]).filter(IS_TAKEN)
    return answers.join(taken, on="row", how="anti")["row"].sort().to_numpy()


class UnknownItems:
    """Feedback that its decision takes and no item does, until its time is past and it is counted.

    Only its times are kept: what it says does not matter any more.
    """

    def __init__(self, feedback: RowBuffer) -> None:
        """Take rows out of *feedback*."""
        self._feedback = feedback
        self._at = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._at)

    def set_aside(self, rows: Int64s) -> None:
        """Take *rows* out of the open feedback."""
        (at,) = self._feedback.columns(rows, "at")
        self._feedback.remove(rows)
        self.add(at)

    def add(self, at: Int64s) -> None:
        """Add feedback with the times *at*."""
        self._at = np.concatenate((self._at, at))

    def close(self, before: int) -> int:
        """Drop the feedback earlier than *before*, and return how much it is."""
        is_past = self._at < before
        self._at = self._at[~is_past]
        return int(np.count_nonzero(is_past))
