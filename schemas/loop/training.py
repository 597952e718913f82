"""What a loop says about training: its learners, when they train, and the gate they must pass."""

from typing import Literal

from pydantic import Field

from tidemill.schemas.loop.durations import Duration
from tidemill.schemas.loop.fields import Value


class Retrain(Value):
    """When the batch learner trains again: after *new_labels* labels, or *every* so long."""

    new_labels: int = Field(default=10_000, ge=1)
    every: Duration | None = None


class Batch(Value):
    """The batch learner: LightGBM on a snapshot of the lake."""

    learner: Literal["lightgbm"] = "lightgbm"
    min_labels: int = Field(default=1_000, ge=1)
    retrain: Retrain = Retrain()
    holdout: float = Field(default=0.2, gt=0.0, lt=1.0)
    seed: int = Field(default=7, ge=0, lt=2**31)
    params: dict[str, bool | int | float | str] = Field(default_factory=dict)
    rounds: int = Field(default=100, ge=1, le=100_000)


class Online(Value):
    """The online learner: River, one example at a time, in the order of commits."""

    learner: Literal["logistic_regression", "linear_regression"] = "logistic_regression"
    learning_rate: float = Field(default=0.01, gt=0.0, allow_inf_nan=False)
    l2: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    publish_every: int = Field(default=10_000, ge=1)


class Models(Value):
    """The learners that compete for the live slot; null switches one off."""

    batch: Batch | None = Batch()
    online: Online | None = None


class Gate(Value):
    """What a candidate must prove on rows later than those it was trained on."""

    metric: Literal["log_loss", "mse"] = "log_loss"
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    min_rows: int = Field(default=500, ge=1)
