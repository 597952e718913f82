"""The predictions an online learner would have served for each example, by which it is judged.

An online learner has learned all rows, so there are no later ones to judge it by. Its prediction
just before it learned a row is no substitute: labels come late, and at the time of the decision the
learner did not yet know the labels of the decisions just before. So each row gets the prediction of
the newest state that was offered, and whose labels were known, when the decision was made. The
Delta table ``online_predictions`` stores them.

Delivery: exactly once. The commit that adds predictions also moves the version of ``examples``
learned so far by compare-and-swap, so commits that are learned again add nothing twice.

Source of the delay: M. Grzenda, H. M. Gomes, A. Bifet, "Delayed labelling evaluation for data
streams", Data Mining and Knowledge Discovery 34(5), 2020.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import polars as pl

from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.progress_keys import learned
from tidemill.schemas.loop.definition import Online
from tidemill.schemas.models.feature_signature import ACTION
from tidemill.schemas.models.online_models import OnlinePredictor
from tidemill.schemas.models.river_state import LEARNERS
from tidemill.trainers.learners.online import own_settings

PREDICTIONS = "online_predictions"
_TIME = pl.Datetime("us", "UTC")
_COLUMNS = ("decision_id", "at", "label", "predicted", "scores", "actions")
_SCHEMA = pl.Schema(
    {
        "decision_id": pl.String(),
        "at": _TIME,
        "label": pl.Float64(),
        "predicted": pl.Float64(),
        "scores": pl.List(pl.Float64()),
        "actions": pl.List(pl.String()),
        "prequential": pl.Float64(),
        "learner": pl.String(),
        "snapshot": pl.Int64(),
        "event_date": pl.Date(),
    }
)
_LABEL = " label="
MAX_STATES = 64  # a decision that was made under an older state is not judged


class OfferedStates:
    """The states a learner has offered, each with the event time from which it could serve.

    Args:
        maturity: how long after its decision a label is known.
    """

    def __init__(self, maturity: timedelta) -> None:
        self._maturity = maturity
        self._states: list[tuple[datetime, OnlinePredictor, Sequence[str] | None]] = []

    def add(
        self, until: datetime, predictor: OnlinePredictor, learned: Sequence[str] | None = None
    ) -> None:
        """Add a state whose newest row was decided at *until*; the oldest state may be dropped.

        *learned* are the actions it has learned; None for all.
        """
        self._states.append((until + self._maturity, predictor, learned))
        self._states.sort(key=lambda state: state[0])
        del self._states[:-MAX_STATES]

    @property
    def since(self) -> datetime | None:
        """The time from which on there is a state that could serve; None if there is none."""
        return self._states[0][0] if self._states else None

    def score(self, at: datetime, row: Mapping[str, object]) -> float | None:
        """Return the score of *row* at *at*; None if no state could serve at that time."""
        for known_at, predictor, _ in reversed(self._states):
            if known_at <= at:
                return predictor.score(row)
        return None

    def score_action(self, at: datetime, row: Mapping[str, object], action: str) -> float | None:
        """Return the score of *action* in *row*; nan if the state has not learned it."""
        for known_at, predictor, known in reversed(self._states):
            if known_at <= at:
                is_learned = known is None or action in known
                return predictor.score({**row, ACTION: action}) if is_learned else math.nan
        return None

    def predict(
        self, times: Iterable[datetime], rows: Iterable[Mapping[str, object]]
    ) -> list[float | None]:
        """Return the score of each of *rows* at its time; see `score`."""
        return [self.score(at, row) for at, row in zip(times, rows, strict=True)]


def learner_name(online: Online, *, is_weighted: bool = False, label: str = "") -> str:
    """Return the name predictions are stored under: another setting is another learner.

    *label* is the digest of the label, if it is not that of the first version of the loop.
    """
    name = f"{online.learner} rate={online.learning_rate!r} l2={online.l2!r}"
    if online.learner not in LEARNERS:
        own = (f"{key}={value!r}" for key, value in own_settings(online).items())
        name = " ".join((online.learner, *own))
    name += " weighted" if is_weighted else ""
    return f"{name}{_LABEL}{label[:16]}" if label else name


class Predictions:
    """The predictions of one online learner; `save` stores those of all `add` calls."""

    def __init__(
        self,
        lake: Lake,
        loop_name: str,
        online: Online,
        *,
        is_weighted: bool = False,
        label: str = "",
    ) -> None:
        self._table = lake.create_table(loop_name, PREDICTIONS, _SCHEMA)
        self._learner = learner_name(online, is_weighted=is_weighted, label=label)
        self._app_id = learned(self._learner)
        self._waiting: list[pl.DataFrame] = []
        self._newest = -1

    def add(self, version: int, predictions: pl.DataFrame) -> None:
        """Add the predictions of one commit; they are in memory until `save`.

        Args:
            version: that of ``examples``.
            predictions: ``decision_id``, ``at``, ``label``, ``predicted``, ``scores`` (of each
                action, where actions are scored), ``actions`` (which these are), ``prequential``.
        """
        self._waiting.append(
            predictions.with_columns(
                pl.lit(self._learner).alias("learner"),
                pl.lit(version, dtype=pl.Int64).alias("snapshot"),
            )
        )
        self._newest = max(self._newest, version)

    def save(self) -> None:
        """Store everything added so far, exactly once.

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

        Columns ``decision_id``, ``at``, ``label``, ``predicted``, ``scores``, ``actions``. Rows
        that no state could serve are left out.
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

        Rows that wait for the next `save` are included, and those of other labels.
        """
        name = self._learner.partition(_LABEL)[0]
        learner = pl.col("learner")
        is_same = (learner == name) | learner.str.starts_with(name + _LABEL)
        wanted = is_same & (pl.col("snapshot") <= up_to)
        saved = self._table.read(["decision_id"], wanted)
        waiting = [frame.filter(wanted).select("decision_id") for frame in self._waiting]
        return pl.concat([saved, *waiting]).get_column("decision_id").unique()
