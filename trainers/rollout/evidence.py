"""What the lake says about a candidate, or about the live model against the control.

Units are assigned to stages by a hash, so rewards of decisions of the same time are compared as
they are: no weights, no model of the reward. A unit is an entity, or a decision without one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.features.estimates.group_means import GroupMean, gain_over, group_mean
from tidemill.features.estimates.intervals import Floats, Interval
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES
from tidemill.features.sql.revisions import newest_rows
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.rollout import CONTROL
from tidemill.schemas.models.feature_signature import scored_actions
from tidemill.schemas.models.manifest import CANARY, LIVE, SHADOW
from tidemill.trainers.evaluation.gate import action_cost
from tidemill.trainers.evaluation.rewards import Rewards
from tidemill.trainers.rollout.stages import StageChange
from tidemill.trainers.rows import FALLBACK, learnable, scored_action


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The rewards of one group of decisions beside those of another.

    Attributes:
        own: the group that is looked at.
        other: what it is compared with.
        gain: the mean reward of *own* minus that of *other*.
    """

    own: GroupMean
    other: GroupMean
    gain: Interval

    def to_metrics(self, other: str) -> dict[str, float]:
        """Return both rewards and the gain by name; numbers that are not known are left out."""
        found = {
            "reward": self.own.mean,
            f"{other}_reward": self.other.mean,
            "rows": float(self.own.rows),
            f"{other}_rows": float(self.other.rows),
            "gain": self.gain.mean,
            "gain_low": self.gain.low,
            "gain_high": self.gain.high,
        }
        return {name: value for name, value in found.items() if np.isfinite(value)}


@dataclass(frozen=True, slots=True)
class StageRewards:
    """Labelled decisions of some stages, oldest first, with what each has earned.

    *rows* has the columns ``at``, ``unit``, ``stage``, ``version`` and ``reward``.
    """

    rows: pl.DataFrame

    @classmethod
    def read(
        cls, lake: Lake, loop: Loop, stages: Sequence[str], since: datetime | None
    ) -> "StageRewards":
        """Read what the decisions of *stages* after *since* have earned.

        Raises:
            LakeError: the lake cannot be read.
        """
        table = lake.table(loop.loop, EXAMPLES)
        found = table.scan().filter(pl.col("stage").is_in(list(stages)) & is_after(since))
        if "revision" in table.schema:
            found = newest_rows(found)
        return cls(rewarded(loop, found.collect()))

    def compare(
        self, own: pl.Expr, other: pl.Expr, confidence: float, *, most: int | None = None
    ) -> Comparison:
        """Compare two groups; of *own* the first *most* rows, and of *other* those until then."""
        first, second = self.rows.filter(own), self.rows.filter(other)
        if most is not None and len(first) > most:
            until = first["at"][most - 1]
            first, second = first.head(most), second.filter(pl.col("at") <= until)
        left, right = _mean(first), _mean(second)
        return Comparison(own=left, other=right, gain=gain_over(left, right, confidence))


def _mean(rows: pl.DataFrame) -> GroupMean:
    return group_mean(rows["reward"].to_numpy(), rows["unit"].rank("dense").to_numpy())


def rewarded(loop: Loop, examples: pl.DataFrame) -> pl.DataFrame:
    """Return what each labelled decision of *examples* has earned, oldest first."""
    rows = learnable(examples, loop).sort("at", "decision_id")
    known = rows.with_columns(
        pl.Series("reward", _rewards(loop, rows), dtype=pl.Float64),
        pl.coalesce("entity", "decision_id").alias("unit"),
        pl.col("model_version").alias("version"),
    ).filter(pl.col("reward").is_finite())
    by = ("at", "decision_id", "unit", "stage", "version")
    return known.group_by(by, maintain_order=True).agg(pl.col("reward").sum())


def _rewards(loop: Loop, rows: pl.DataFrame) -> Floats:
    label = rows["label"].to_numpy()
    if loop.decision.items is not None:
        return Rewards(loop).of_items(label, rows["item"])
    if not loop.scores_actions:
        return -action_cost(loop, label, rows["action"])
    numbers = {text: number for number, text in enumerate(scored_actions(loop))}
    texts = rows.select(scored_action(loop)).to_series()
    number = texts.replace_strict(numbers, default=-1, return_dtype=pl.Int64).to_numpy()
    earned = Rewards(loop).of(label, np.maximum(number, 0))
    return np.where(number < 0, np.nan, earned)


def against_control(lake: Lake, loop: Loop, since: datetime | None) -> Comparison | None:
    """Return what live decisions have earned beside those of the control; None without any.

    Raises:
        LakeError: the lake cannot be read.
    """
    rewards = StageRewards.read(lake, loop, (LIVE, CONTROL), since)
    stage = pl.col("stage")
    found = rewards.compare(stage == LIVE, stage == CONTROL, loop.gate.confidence)
    return found if found.own.rows and found.other.rows else None


def count_decisions(lake: Lake, loop: Loop, since: datetime | None) -> int:
    """Return how many decisions after *since* the lake has, of all stages."""
    return int(_decisions(lake, loop, since).select(pl.len()).collect().item())


def canary_sources(lake: Lake, loop: Loop, since: datetime | None) -> Mapping[str, int]:
    """Return how many canary decisions after *since* there are, by what answered them."""
    found = _decisions(lake, loop, since).filter(pl.col("stage") == CANARY)
    rows = found.group_by("source").agg(pl.len()).collect()
    return dict(rows.iter_rows())


def fallback_share(sources: Mapping[str, int]) -> float:
    """Return the share of the decisions that no model answered; 0 if there are none."""
    return sources.get(FALLBACK, 0) / max(1, sum(sources.values()))


def newest_decision(lake: Lake, loop: Loop) -> datetime | None:
    """Return the time of the newest decision in the lake; None if it has none."""
    newest: datetime | None = (
        lake.table(loop.loop, DECISIONS).scan().select(pl.col("at").max()).collect().item()
    )
    return newest


def _decisions(lake: Lake, loop: Loop, since: datetime | None) -> pl.LazyFrame:
    return lake.table(loop.loop, DECISIONS).scan().filter(is_after(since))


def is_after(since: datetime | None) -> pl.Expr:
    """Return whether a decision is later than *since*, by its date too, which prunes files."""
    if since is None:
        return pl.lit(True)  # all are
    return (pl.col("at") > since) & (pl.col("event_date") >= since.date())


def rows_in_stage(lake: Lake, loop: Loop, change: StageChange) -> int:
    """Return on how many decisions the model of *change* has been in its stage so far.

    In shadow it scores all decisions. As canary and live it makes some, and those with a label
    count.

    Raises:
        LakeError: the lake cannot be read.
    """
    if change.stage == SHADOW:
        return count_decisions(lake, loop, change.since)
    wanted = (pl.col("model_version") == change.version) & is_after(change.since)
    if change.stage == CANARY:
        wanted &= pl.col("stage") == CANARY
    found = learnable(lake.table(loop.loop, EXAMPLES).scan().filter(wanted), loop)
    return int(found.select(pl.col("decision_id").n_unique()).collect().item())
