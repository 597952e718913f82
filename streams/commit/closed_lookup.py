"""Reads closed decisions back from the lake when late feedback revises them.

It reads only the decisions asked for and caches nothing: a correction is rare, and its decision may
be days old.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.lake.progress_keys import EXAMINED
from tidemill.schemas.logs import is_feedback
from tidemill.streams.commit.leases import Lease
from tidemill.streams.commit.progress_commit import ProgressUpdate, commit
from tidemill.streams.commit.progress_table import ProgressTable, patient
from tidemill.streams.join.corrections import Recall, Recalled
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros, within_calendar

_RANGES = 16  # of times, or of log positions, in the filter of one read
_FEEDBACK = ("id", "decision_id", "kind", "at", "values", "offset")


def begin_examining(tables: Mapping[str, ProgressTable], leases: Mapping[int, Lease]) -> None:
    """Commit the offset from which feedback may correct, for logs that have none yet.

    Feedback before that offset was read under rules without corrections; its outcome stays.

    Raises:
        FencedError: another worker owns one of the partitions now.
        LakeError: the lake refuses.
    """
    updates = []
    for lease in leases.values():
        known = lease.examined
        fresh = [log for log in lease.logs if is_feedback(log) and log not in known]
        if fresh:
            numbers: dict[str, int] = {EXAMINED.for_log(log): lease.offset(log) for log in fresh}
            updates.append(ProgressUpdate(lease, [], numbers))
    if updates:
        commit(EXAMPLES, tables[EXAMPLES], updates)


def recall_from(tables: Mapping[str, ProgressTable], partition: int, rules: JoinRules) -> Recall:
    """Return the function that recalls closed decisions of *partition*.

    It raises LakeError if the lake refuses. *rules* say how far from a decision its feedback is
    searched first.
    """
    ours = pl.col("partition") == partition

    def recall(wanted: pl.DataFrame) -> Recalled:
        made = wanted["at"]
        asked_for = pl.col("decision_id").is_in(wanted["decision_id"].implode())
        written = patient(
            lambda: tables["examples"].read(where=ours & _near("at", made) & asked_for)
        ).join(wanted, on=["decision_id", "at"], how="semi")
        examples = (
            written.with_columns(pl.col("revision").fill_null(0))
            .sort(*rules.key, "revision")
            .unique(rules.key, keep="last", maintain_order=True)
        )
        answered = examples.filter(pl.col("feedback_offsets").list.len() > 0)
        feedback = _feedback(tables["feedback"], ours, answered, rules)
        return Recalled(examples=examples, feedback=feedback)

    return recall


def _feedback(
    table: ProgressTable, ours: pl.Expr, answered: pl.DataFrame, rules: JoinRules
) -> pl.DataFrame:
    """Return the feedback that the examples *answered* have joined.

    A file with several streams spans nearly all log positions, so only its range of times can
    exclude it from the read. A version with wider windows may have joined feedback further off: if
    rows are missing, a second read goes by log positions alone.
    """
    positions = answered["feedback_offsets"].explode()
    named = ours & pl.col("offset").is_in(positions.implode()) & _near("offset", positions)
    soon = named & _near("at", answered["at"], before=rules.ahead, after=rules.wait)
    feedback = patient(lambda: table.read(_FEEDBACK, where=soon))
    if len(feedback) < positions.n_unique():
        feedback = patient(lambda: table.read(_FEEDBACK, where=named))
    return feedback


def _near(
    name: str,
    values: pl.Series,
    *,
    before: timedelta = timedelta(0),
    after: timedelta = timedelta(0),
) -> pl.Expr:
    """Return a filter for rows whose *name* is close to one of *values*.

    Delta skips files whose statistics do not fit it. Close to a time is from *before* it to *after*
    it. The filter has several ranges, because a single one from an old value to a new one would
    read every file between them.
    """
    ordered = values.unique().sort()
    if ordered.is_empty():
        return pl.lit(value=False)
    gaps = np.diff(ordered.to_physical().to_numpy())
    largest = np.sort(np.argsort(gaps)[1 - _RANGES :])
    starts, ends = [0, *(largest + 1)], [*largest, -1]
    return pl.any_horizontal(
        pl.col(name).is_between(
            pl.lit(_shifted(ordered[int(first)], -before)),
            pl.lit(_shifted(ordered[int(last)], after)),
        )
        for first, last in zip(starts, ends, strict=True)
    )


def _shifted(value: int | datetime, by: timedelta) -> int | datetime:
    """Return a time plus *by*, clipped to the calendar; a log position unchanged."""
    if isinstance(value, int):
        return value
    return within_calendar(micros(value) + micros(by))
