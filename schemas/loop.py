"""The loop definition: one decision point, from its features to its label, as immutable values.

Data engineers write it as YAML (`loopfile.py` reads that) or as these classes in Python; both are
the same values. It knows no file, no Avro and no Kafka. What an expression in SQL may say is
checked in `labels.py`.
"""

import hashlib
import json
import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

NAME = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
FIELD = r"^[a-z][a-z0-9_]*$"
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Turn ``"90s"``, ``"8h"`` or ``"7d"`` into a timedelta; leave a timedelta alone."""
    if not isinstance(value, str):
        if isinstance(value, timedelta):
            return value
        raise ValueError(f"{value!r} has no unit; write a number and ms, s, m, h or d, say '30m'")
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value)
    if not match:
        raise ValueError(f"{value!r} is not a duration; write a number and ms, s, m, h or d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def format_duration(value: timedelta) -> str:
    """Return the shortest text that `parse_duration` reads back as *value*."""
    micros = value // timedelta(microseconds=1)
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000)):
        if micros and micros % size == 0:
            return f"{micros // size}{unit}"
    return f"{micros // 1_000_000}s" if micros % 1_000_000 == 0 else f"{micros / 1000:g}ms"


Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)
]


class FieldType(StrEnum):
    """What a feature or a feedback value may hold."""

    FLOAT = "float"
    INT = "int"
    BOOL = "bool"
    CATEGORY = "category"
    CATEGORIES = "categories"
    TIMESTAMP = "timestamp"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Feature(_Value):
    """One input of the model, known when the decision is asked for."""

    type: FieldType
    nullable: bool = False
    default: bool | int | float | str | list[str] | None = None
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"type": value} if isinstance(value, str) else value


class Feedback(_Value):
    """One kind of feedback: how long it counts after a decision, and what it carries."""

    within: Duration
    early: Duration = timedelta(0)
    values: dict[Annotated[str, Field(pattern=FIELD)], Feature] = {}


class Label(_Value):
    """How the feedback of one decision becomes its label; *sql* aggregates its feedback rows."""

    sql: str
    type: Literal["bool", "float"] = "bool"
    missing: Literal["negative", "censored", "dropped"] = "negative"


class Decision(_Value):
    """The shape of the answer, and what is answered while nothing better is known."""

    type: Literal["bool", "choice", "float", "ranking"]
    actions: list[str] = []
    default: bool | float | str | list[str]


class Policy(_Value):
    """How a score becomes an action.

    threshold: bool or a choice of two; the model predicts the label, *above* is taken when the
    score is at least *threshold*, else *below*.
    greedy: choice or ranking; the model scores each action (it enters the model as feature
    ``action``); the best is taken, or with probability *epsilon* one at random.
    value: float; the score is the action, clipped to [*low*, *high*].
    """

    version: int = 1
    kind: Literal["threshold", "greedy", "value"]
    threshold: float = 0.5
    above: bool | str | None = None
    below: bool | str | None = None
    epsilon: float = Field(default=0.0, ge=0.0, le=1.0)
    low: float | None = None
    high: float | None = None


class Retrain(_Value):
    """When the batch learner trains again: after so many new labels, or after so long."""

    new_labels: int = Field(default=10_000, ge=1)
    every: Duration | None = None


class Batch(_Value):
    """The batch learner: LightGBM on a snapshot of the lake."""

    learner: Literal["lightgbm"] = "lightgbm"
    min_labels: int = Field(default=1_000, ge=1)
    retrain: Retrain = Retrain()
    holdout: float = Field(default=0.2, gt=0.0, lt=1.0)
    seed: int = 7
    params: dict[str, bool | int | float | str] = {}
    rounds: int = Field(default=100, ge=1)


class Online(_Value):
    """The online learner: River, one example at a time, in commit order."""

    learner: Literal["logistic_regression", "linear_regression"] = "logistic_regression"
    learning_rate: float = Field(default=0.01, gt=0.0)
    l2: float = Field(default=0.0, ge=0.0)
    publish_every: int = Field(default=10_000, ge=1)


class Models(_Value):
    """Which learners compete for the live slot; leave one out to switch it off."""

    batch: Batch | None = Batch()
    online: Online | None = None


class Gate(_Value):
    """What a candidate has to prove on rows later than those it learned from."""

    metric: Literal["log_loss", "mse"] = "log_loss"
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    min_rows: int = Field(default=500, ge=1)


class Loop(_Value):
    """One decision point. A version never changes once it is published."""

    loop: str = Field(pattern=NAME, max_length=80)
    version: int = Field(default=1, ge=1)
    description: str = ""
    decision: Decision
    features: dict[Annotated[str, Field(pattern=FIELD)], Feature] = Field(min_length=1)
    feedback: dict[Annotated[str, Field(pattern=FIELD)], Feedback] = Field(min_length=1)
    label: Label
    grace: Duration = timedelta(minutes=1)
    idle_after: Duration = timedelta(seconds=30)
    max_skew: Duration = timedelta(minutes=5)
    remember: Duration = timedelta(hours=1)
    policy: Policy
    models: Models = Models()
    gate: Gate = Gate()
    partitions: int = Field(default=4, ge=1, le=10_000)
    budget_ms: float = Field(default=50.0, gt=0.0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        return self

    @property
    def wait(self) -> timedelta:
        """How long after a decision its feedback counts at most: the largest `within`."""
        return max(kind.within for kind in self.feedback.values())

    @property
    def early(self) -> timedelta:
        """How long before a decision its feedback counts at most: the largest `early`."""
        return max(kind.early for kind in self.feedback.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON; two equal definitions have equal digests."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
