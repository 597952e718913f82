"""Examples: closed decisions with what their feedback made of them, as one frame.

It knows no window: which feedback belongs to which decision is decided already.
"""

from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from tidemill.streams.labels import GROUP, Floats, Labels
from tidemill.streams.rules import Int64s

Missing = Literal["negative", "censored", "dropped"]

LABELED, NO_FEEDBACK, CENSORED = "labeled", "no_feedback", "censored"
COLUMNS = (
    *("decision_id", "at", "entity", "features", "action", "score", "propensity", "source"),
    *("model_version", "policy_version", "loop_version", "state", "label"),
    *("feedback_offsets", "first_feedback_at", "offset"),
)
_TIME = pl.Datetime("us", "UTC")


def build_examples(
    decisions: pl.DataFrame, joined: pl.DataFrame | None, labels: Labels, missing: Missing
) -> pl.DataFrame:
    """Return one example for each row of *decisions*, in their order.

    Args:
        decisions: id, at, offset and what else an example keeps of its decision.
        joined: kind, at, offset, values of the joined feedback and in `GROUP` the row of its
            decision, by (decision, at, offset); None if there is none.
        labels: what the feedback of one decision means.
        missing: what no feedback means, or feedback without a label.
    """
    count = len(decisions)
    if joined is None:
        group: Int64s = np.empty(0, dtype=np.int64)
        label, offsets, times = np.full(count, np.nan), group, group
    else:
        group = joined[GROUP].to_numpy()
        made = decisions["at"].gather(group).alias("decision_at")
        rows = joined.with_columns(made).unnest("values")
        label = labels.of(rows, count)
        offsets, times = joined["offset"].to_numpy(), joined["at"].to_physical().to_numpy()
    return decisions.rename({"id": "decision_id"}).with_columns(
        *_outcome(label, missing),
        _lists(group, offsets, count).alias("feedback_offsets"),
        _first(group, times, count).alias("first_feedback_at"),
    ).select(COLUMNS)  # fmt: skip


def _outcome(label: Floats, missing: Missing) -> list[pl.Series]:
    """Return the columns state and label."""
    without = np.isnan(label)
    state = pl.Series("state", [LABELED, CENSORED if missing == "censored" else NO_FEEDBACK])
    if missing == "negative":
        values = pl.Series("label", np.where(without, 0.0, label))
    else:
        values = pl.Series("label", label, nan_to_null=True)
    return [state.gather(without.astype(np.uint32)), values]


def _lists(group: Int64s, values: Int64s, count: int) -> pl.Series:
    """Return a List(Int64) column: the *values* of each of *count* groups; *group* is sorted."""
    ends = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(group, minlength=count), out=ends[1:])
    lists = pa.LargeListArray.from_arrays(_arrow(ends), _arrow(values))
    return pl.Series(lists, dtype=pl.List(pl.Int64))


def _arrow(values: Int64s) -> pa.Array:
    """Return *values* as Arrow; `pa.array` would import all of pandas to look at their type."""
    buffer = pa.py_buffer(np.ascontiguousarray(values, dtype=np.int64))
    return pa.Array.from_buffers(pa.int64(), len(values), [None, buffer])


def _first(group: Int64s, at: Int64s, count: int) -> pl.Series:
    """Return the first time of each group, null for groups without; rows are sorted by time."""
    first = np.full(count, np.iinfo(np.int64).min)
    first[group[::-1]] = at[::-1]
    times = pl.Series(first, dtype=pl.Int64)
    return times.set(times == np.iinfo(np.int64).min, None).cast(_TIME)
