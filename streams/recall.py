"""Closed decisions read back from the lake, where late feedback is about to revise them.

Only what is asked for is read, and nothing is kept: a correction is rare, and its decision may be
days old. It knows no join.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from tidemill.features.layouts import EXAMPLES
from tidemill.schemas.logs import is_feedback, numbered
from tidemill.streams.commits import Holding, Move, Table, commit, patient
from tidemill.streams.corrections import Recall, Recalled

_RANGES = 16  # of time, or of places, that one read looks at
_FEEDBACK = ("id", "decision_id", "kind", "at", "values", "offset")


def begin_examining(tables: Mapping[str, Table], holdings: Mapping[int, Holding]) -> None:
    """Write down from where feedback may correct, for logs of which that was never asked.

    What was read before has ended as it did, under rules without corrections.

    Raises:
        FencedError: another worker owns one of the partitions now.
        LakeError: the lake refuses.
    """
    moves = []
    for held in holdings.values():
        known = held.examined
        fresh = [log for log in held.logs if is_feedback(log) and log not in known]
        if fresh:
            new = {numbered("examined", log): held.offset(log) for log in fresh}
            moves.append(Move(held, [], new))
    if moves:
        commit(EXAMPLES, tables[EXAMPLES], moves)


def recall_from(tables: Mapping[str, Table], partition: int) -> Recall:
    """Return what recalls closed decisions of *partition*; LakeError if the lake refuses."""
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
        places = examples["feedback_offsets"].explode().drop_nulls()
        named = pl.col("offset").is_in(places.implode()) & _near("offset", places)
        feedback = patient(lambda: tables["feedback"].read(_FEEDBACK, where=ours & named))
        return Recalled(examples=examples, feedback=feedback)

    return recall


def _near(name: str, values: pl.Series) -> pl.Expr:
    """Return whether *name* is close to one of *values*; statistics rule files out by it.

    A single range over an old value and a new one would have every file between them read.
    """
    ordered = values.unique().sort()
    if ordered.is_empty():
        return pl.lit(value=False)
    gaps = np.diff(ordered.to_physical().to_numpy())
    cuts = np.sort(np.argsort(gaps)[1 - _RANGES :])
    starts, ends = [0, *(cuts + 1)], [*cuts, -1]
    return pl.any_horizontal(
        pl.col(name).is_between(pl.lit(ordered[int(first)]), pl.lit(ordered[int(last)]))
        for first, last in zip(starts, ends, strict=True)
    )
