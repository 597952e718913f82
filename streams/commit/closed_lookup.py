"""Closed decisions read back from the lake, where late feedback is about to revise them.

Only what is asked for is read, and nothing is kept: a correction is rare, and its decision may be
days old. It knows no join.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.lake.progress_keys import EXAMINED
from tidemill.schemas.logs import is_feedback
from tidemill.streams.commit.ownership import Lease
from tidemill.streams.commit.progress_table import ProgressTable, patient
from tidemill.streams.commit.transactions import ProgressUpdate, commit
from tidemill.streams.join.corrections import Recall, Recalled
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros, within_calendar

_RANGES = 16  # of time, or of places, that one read looks at
_FEEDBACK = ("id", "decision_id", "kind", "at", "values", "offset")


def begin_examining(tables: Mapping[str, ProgressTable], leases: Mapping[int, Lease]) -> None:
    """Write down from where feedback may correct, for logs of which that was never asked.

    What was read before has ended as it did, under rules without corrections.

    Raises:
        FencedError: another worker owns one of the partitions now.
        LakeError: the lake refuses.
    """
    moves = []
    for held in leases.values():
        known = held.examined
        fresh = [log for log in held.logs if is_feedback(log) and log not in known]
        if fresh:
            moves.append(
                ProgressUpdate(held, [], {EXAMINED.for_log(log): held.offset(log) for log in fresh})
            )
    if moves:
        commit(EXAMPLES, tables[EXAMPLES], moves)


def recall_from(tables: Mapping[str, ProgressTable], partition: int, rules: JoinRules) -> Recall:
    """Return what recalls closed decisions of *partition*; LakeError if the lake refuses.

    *rules* say how far from a decision its feedback is looked for first.
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
            .sort("offset", "revision")
            .unique("offset", keep="last", maintain_order=True)
        )
        answered = examples.filter(pl.col("feedback_offsets").list.len() > 0)
        feedback = _feedback(tables["feedback"], ours, answered, rules)
        return Recalled(examples=examples, feedback=feedback)

    return recall


def _feedback(
    table: ProgressTable, ours: pl.Expr, answered: pl.DataFrame, rules: JoinRules
) -> pl.DataFrame:
    """Return the feedback that the examples *answered* name.

    A file of several streams spans nearly all places, so by them alone it is never ruled out; by
    time it is. What a version with wider windows has joined may lie further off: then the places
    alone decide.
    """
    places = answered["feedback_offsets"].explode()
    named = ours & pl.col("offset").is_in(places.implode()) & _near("offset", places)
    soon = named & _near("at", answered["at"], before=rules.ahead, after=rules.wait)
    found = patient(lambda: table.read(_FEEDBACK, where=soon))
    if len(found) < places.n_unique():
        found = patient(lambda: table.read(_FEEDBACK, where=named))
    return found


def _near(
    name: str,
    values: pl.Series,
    *,
    before: timedelta = timedelta(0),
    after: timedelta = timedelta(0),
) -> pl.Expr:
    """Return whether *name* is close to one of *values*; statistics rule files out by it.

    Close to a time is from *before* it to *after* it. A single range over an old value and a new
    one would have every file between them read.
    """
    ordered = values.unique().sort()
    if ordered.is_empty():
        return pl.lit(value=False)
    gaps = np.diff(ordered.to_physical().to_numpy())
    cuts = np.sort(np.argsort(gaps)[1 - _RANGES :])
    starts, ends = [0, *(cuts + 1)], [*cuts, -1]
    return pl.any_horizontal(
        pl.col(name).is_between(
            pl.lit(_moved(ordered[int(first)], -before)), pl.lit(_moved(ordered[int(last)], after))
        )
        for first, last in zip(starts, ends, strict=True)
    )


def _moved(value: int | datetime, by: timedelta) -> int | datetime:
    """Return a time moved *by* so much, as far as the calendar goes; a place as it is."""
    if isinstance(value, int):
        return value
    return within_calendar(micros(value) + micros(by))
