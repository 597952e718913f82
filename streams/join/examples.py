"""Examples: closed decisions with state, label and joined feedback, as one frame.

The windows were applied before: each row of feedback comes with the decision it belongs to.
"""

from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from tidemill.schemas.events.schemas import CIRCUMSTANCES, ITEM_FIELDS
from tidemill.schemas.loop.validation import ACTIVATED_AT
from tidemill.streams.join.labels import GROUP, ComputedLabels, Labels
from tidemill.streams.units import Int64s

Missing = Literal["negative", "censored", "dropped"]

LABELED, NO_FEEDBACK, CENSORED = "labeled", "no_feedback", "censored"
NOT_ACTIVATED, LABEL_ERROR = "not_activated", "label_error"
_OF_DECISION = (
    *("decision_id", "at", "entity", "features", "action", "score", "propensity", "source"),
    *("model_version", "policy_version", "loop_version", *CIRCUMSTANCES),
)
_OUTCOME = ("state", "label", "feedback_offsets", "first_feedback_at", "revision", "offset")
COLUMNS = (*_OF_DECISION, *_OUTCOME)
COLUMNS_OF_ITEMS = (*_OF_DECISION, *ITEM_FIELDS, *_OUTCOME)
_FIRST_REVISION = pl.lit(0, dtype=pl.Int32).alias("revision")
_TIME = pl.Datetime("us", "UTC")


def build_examples(
    decisions: pl.DataFrame,
    joined: pl.DataFrame | None,
    labels: Labels,
    missing: Missing,
    activation: str | None = None,
) -> pl.DataFrame:
    """Return one example for each row of *decisions*, in their order.

    Args:
        decisions: id, at, offset and the other columns that an example has of its decision;
            *revision*, if it is not the first. A decision is there once for each item it has shown.
        joined: kind, at, offset, values of the joined feedback and in `GROUP` the row of its
            decision, by (decision, at, offset); None if there is none.
        labels: computes the label of a decision from its feedback.
        missing: the rule for decisions without feedback, or with feedback that gives no label; a
            label that is an error is none of it, and null.
        activation: the kind of feedback without which a decision is no example, if there is one;
            it is joined, and labels do not get it.
    """
    count = len(decisions)
    offsets = _lists(*_grouped(joined, "offset"), count)
    activated, outcomes = None, joined
    if activation is not None:
        activated, joined = _activated(joined, activation, count)
        outcomes = None if joined is None else joined.filter(~pl.col(ACTIVATED_AT).is_null())
    if "revision" not in decisions.columns:
        decisions = decisions.with_columns(_FIRST_REVISION)
    return decisions.rename({"id": "decision_id"}).with_columns(
        *_state_and_label(_labels(decisions, outcomes, labels), missing, activated),
        offsets.alias("feedback_offsets"),
        _first(*_grouped(joined, "at"), count).alias("first_feedback_at"),
    ).select(COLUMNS_OF_ITEMS if "item" in decisions.columns else COLUMNS)  # fmt: skip


def _grouped(joined: pl.DataFrame | None, column: str) -> tuple[Int64s, Int64s]:
    """Return the decision of each joined row, and its *column* as numbers."""
    if joined is None:
        none: Int64s = np.empty(0, dtype=np.int64)
        return none, none
    return joined[GROUP].to_numpy(), joined[column].to_physical().to_numpy()


def _activated(
    joined: pl.DataFrame | None, activation: str, count: int
) -> tuple[pl.Series, pl.DataFrame | None]:
    """Return when each decision was activated, null if never, and the other joined feedback."""
    if joined is None:
        return _first(*_grouped(None, "at"), count), None
    is_activation = joined["kind"] == activation
    at = _first(*_grouped(joined.filter(is_activation), "at"), count)
    rest = joined.filter(~is_activation)
    return at, rest.with_columns(at.gather(rest[GROUP]).alias(ACTIVATED_AT))


def _labels(decisions: pl.DataFrame, joined: pl.DataFrame | None, labels: Labels) -> ComputedLabels:
    """Return one label for each of *decisions*."""
    if joined is None:
        return ComputedLabels.none(len(decisions))
    made = decisions["at"].gather(joined[GROUP]).alias("decision_at")
    return labels.of(joined.with_columns(made).unnest("values"), decisions["id"])


def _state_and_label(
    label: ComputedLabels, missing: Missing, activated: pl.Series | None
) -> list[pl.Series]:
    """Return the columns state and label."""
    without = np.isnan(label.values)
    unlabeled = CENSORED if missing == "censored" else NO_FEEDBACK
    names = pl.Series("state", [LABELED, unlabeled, LABEL_ERROR, NOT_ACTIVATED])
    states = np.where(label.is_error, 2, without)
    if missing == "negative":
        values = pl.Series("label", np.where(without, 0.0, label.values))
    else:
        values = pl.Series("label", label.values, nan_to_null=True)
    if activated is not None:
        states = np.where(activated.is_null().to_numpy(), 3, states)
    return [names.gather(states.astype(np.uint32)), values.set(pl.Series(states >= 2), None)]


def _lists(group: Int64s, values: Int64s, count: int) -> pl.Series:
    """Return a List(Int64) column: the *values* of each of *count* groups; *group* is sorted."""
    ends = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(group, minlength=count), out=ends[1:])
    lists = pa.LargeListArray.from_arrays(_arrow(ends), _arrow(values))
    return pl.Series(lists, dtype=pl.List(pl.Int64))


def _arrow(values: Int64s) -> pa.Array:
    """Return *values* as Arrow; `pa.array` imports all of pandas to infer their type."""
    buffer = pa.py_buffer(np.ascontiguousarray(values, dtype=np.int64))
    return pa.Array.from_buffers(pa.int64(), len(values), [None, buffer])


def _first(group: Int64s, at: Int64s, count: int) -> pl.Series:
    """Return the first time of each group, null for empty groups; rows are sorted by time."""
    first = np.full(count, np.iinfo(np.int64).min)
    first[group[::-1]] = at[::-1]
    times = pl.Series(first, dtype=pl.Int64)
    return times.set(times == np.iinfo(np.int64).min, None).cast(_TIME)
