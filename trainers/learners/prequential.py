"""What the online learner would have served for each example, kept in the lake: how it is judged.

There are no later rows to a learner that has learned all there is. Its last prediction before it
learned a row is no substitute: labels come late, and when the decision was made the learner did not
know what came of the decisions just before it. So each row gets the prediction of the newest state
that had been offered, and whose labels were known, when the decision was made. One Delta table,
``online_predictions``. It knows no gate and no topic.

Delivery: exactly once. The version of ``examples`` learned up to moves in the commit that adds the
predictions; a learner that goes through commits again adds nothing twice.

Source of the delay: M. Grzenda, H. M. Gomes, A. Bifet, "Delayed labelling evaluation for data
streams", Data Mining and Knowledge Discovery 34(5), 2020.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import polars as pl

from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.progress_keys import learned
from tidemill.schemas.loop.definition import Online
from tidemill.schemas.models.river_state import LinearPredictor

PREDICTIONS = "online_predictions"
_TIME = pl.Datetime("us", "UTC")
_COLUMNS = ("decision_id", "at", "label", "predicted")
_SCHEMA = pl.Schema(
    {
        "decision_id": pl.String(),
        "at": _TIME,
        "label": pl.Float64(),
        "predicted": pl.Float64(),
        "prequential": pl.Float64(),
        "learner": pl.String(),
        "snapshot": pl.Int64(),
        "event_date": pl.Date(),
    }
)
MAX_STATES = 64  # a decision whose state is no longer among them is not judged


class OfferedStates:
    """The states a learner has offered, each known from a moment of event time on.

    Args:
        maturity: how long after its decision a label is known.
    """

    def __init__(self, maturity: timedelta) -> None:
        self._maturity = maturity
        self._states: list[tuple[datetime, LinearPredictor]] = []

    def add(self, until: datetime, predictor: LinearPredictor) -> None:
        """Take a state whose newest row was decided at *until*; the oldest may be forgotten."""
        self._states.append((until + self._maturity, predictor))
        self._states.sort(key=lambda state: state[0])
        del self._states[:-MAX_STATES]

    def score(self, at: datetime, row: Mapping[str, object]) -> float | None:
        """Return what was served for *row* at *at*; None if nothing had been offered by then."""
        for known_at, predictor in reversed(self._states):
            if known_at <= at:
                return predictor.score(row)
        return None

    def predict(
        self, times: Iterable[datetime], rows: Iterable[Mapping[str, object]]
    ) -> list[float | None]:
        """Return what was served for each of *rows*."""
        return [self.score(at, row) for at, row in zip(times, rows, strict=True)]


def learner_name(online: Online) -> str:
    """Return the name under which predictions are kept: another rate is another learner."""
    return f"{online.learner} rate={online.learning_rate!r} l2={online.l2!r}"


class Predictions:
    """The predictions of one online learner; what `add` takes is kept by the next `save`."""

    def __init__(self, lake: Lake, loop_name: str, online: Online) -> None:
        self._table = lake.create_table(loop_name, PREDICTIONS, _SCHEMA)
        self._learner = learner_name(online)
        self._app_id = learned(self._learner)
        self._waiting: list[pl.DataFrame] = []
        self._newest = -1

    def add(self, version: int, told: pl.DataFrame) -> None:
        """Take what one commit taught; it is in memory until `save`.

        Args:
            version: of ``examples``.
            told: ``decision_id``, ``at``, ``label``, ``predicted``, ``prequential``.
        """
        self._waiting.append(
            told.with_columns(
                pl.lit(self._learner).alias("learner"),
                pl.lit(version, dtype=pl.Int64).alias("snapshot"),
            )
        )
        self._newest = max(self._newest, version)

    def save(self) -> None:
        """Keep everything taken so far, once.

        Raises:
            FencedError: another trainer of this loop has saved meanwhile.
            LakeError: the lake refuses; `save` again.
        """
        if not self._waiting:
            return
        known = self._table.progress([self._app_id])[self._app_id]
        frame = pl.concat(self._waiting)
        fresh = frame if known is None else frame.filter(pl.col("snapshot") > known)
        if known is None or self._newest > known:
            self._table.append(fresh, swaps=[CompareAndSwap(self._app_id, known, self._newest)])
        self._waiting.clear()

    def read(self, since: datetime | None = None) -> pl.DataFrame:
        """Return the saved predictions of decisions not before *since*, by (at, decision_id).

        Columns ``decision_id``, ``at``, ``label``, ``predicted``. Rows for which nothing had been
        offered yet are left out.
        """
        return self._table.read(_COLUMNS, self._wanted(since)).sort("at", "decision_id")

    def _wanted(self, since: datetime | None) -> pl.Expr:
        wanted = (pl.col("learner") == self._learner) & pl.col("predicted").is_not_null()
        if since is not None:
            wanted &= (pl.col("at") >= since) & (pl.col("event_date") >= since.date())
        return wanted

    def newest(self, count: int, since: datetime | None = None) -> pl.DataFrame:
        """Return the newest *count* rows of what `read` returns, in the same order."""
        return (
            self._table.scan()
            .filter(self._wanted(since))
            .select(_COLUMNS)
            .top_k(count, by=["at", "decision_id"])
            .collect()
            .sort("at", "decision_id")
        )

    def learned_ids(self, up_to: int) -> pl.Series:
        """Return the decision ids learned from versions of ``examples`` up to *up_to*.

        Those that wait for the next `save` are among them.
        """
        wanted = (pl.col("learner") == self._learner) & (pl.col("snapshot") <= up_to)
        saved = self._table.read(["decision_id"], wanted)
        waiting = [frame.filter(wanted).select("decision_id") for frame in self._waiting]
        return pl.concat([saved, *waiting]).get_column("decision_id").unique()
