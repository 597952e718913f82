"""What the online learner predicted for each example before it learned it, kept in the lake.

One Delta table ``online_predictions``. It is how an online model is judged: there are no later
rows to a learner that has learned all there is. It knows no learner and no gate.

Delivery: exactly once. The version of ``examples`` learned up to moves in the commit that adds the
predictions; a learner that goes through commits again adds nothing twice.
"""

from datetime import datetime

import polars as pl

from tidemill.features.commits import Swap
from tidemill.features.lake import Lake
from tidemill.schemas.loop import Online
from tidemill.trainers.online import Learned

PREDICTIONS = "online_predictions"
_TIME = pl.Datetime("us", "UTC")
_COLUMNS = ("decision_id", "at", "label", "predicted")
_SCHEMA = pl.Schema(
    {
        "decision_id": pl.String(),
        "at": _TIME,
        "label": pl.Float64(),
        "predicted": pl.Float64(),
        "learner": pl.String(),
        "snapshot": pl.Int64(),
        "event_date": pl.Date(),
    }
)


def learner_name(online: Online) -> str:
    """Return the name under which predictions are kept: another rate is another learner."""
    return f"{online.learner} rate={online.learning_rate!r} l2={online.l2!r}"


class Predictions:
    """The predictions of one online learner; what `add` takes is kept by the next `save`."""

    def __init__(self, lake: Lake, loop_name: str, online: Online) -> None:
        self._table = lake.create_table(loop_name, PREDICTIONS, _SCHEMA)
        self._learner = learner_name(online)
        self._app_id = f"learned/{self._learner}"
        self._waiting: list[pl.DataFrame] = []
        self._newest = -1

    def add(self, learned: Learned) -> None:
        """Take what one commit taught; it is in memory until `save`."""
        self._waiting.append(
            learned.predictions.with_columns(
                pl.lit(self._learner).alias("learner"),
                pl.lit(learned.version, dtype=pl.Int64).alias("snapshot"),
            )
        )
        self._newest = max(self._newest, learned.version)

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
            self._table.append(fresh, swaps=[Swap(self._app_id, known, self._newest)])
        self._waiting.clear()

    def read(self, since: datetime | None = None, up_to: int | None = None) -> pl.DataFrame:
        """Return the saved predictions of decisions not before *since*, by (at, decision_id).

        Columns ``decision_id``, ``at``, ``label``, ``predicted``. With *up_to* only those that were
        learned from versions of ``examples`` up to that one.
        """
        wanted = pl.col("learner") == self._learner
        if up_to is not None:
            wanted &= pl.col("snapshot") <= up_to
        if since is not None:
            wanted &= (pl.col("at") >= since) & (pl.col("event_date") >= since.date())
        return self._table.read(_COLUMNS, wanted).sort("at", "decision_id")
