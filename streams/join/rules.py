"""What a join has to be told: which feedback belongs to a decision, and how long to wait for it.

`JoinRules` is a value made from a loop; `Spans` is the same in the whole microseconds that the join
computes with. Neither knows a row, a clock or Kafka.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Self

import numpy as np
import polars as pl

from tidemill.schemas.events.schemas import decision_frame_schema, feedback_frame_schema
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import compile_label
from tidemill.streams.units import FIRST_MOMENT, NEVER, Int64s, micros, moment

_SHORTEST_BUCKET = timedelta(seconds=1)
_LONGEST_BUCKET = timedelta(minutes=10)
_BUCKETS_PER_WAIT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """The lengths of time of a join in microseconds.

    *within* and *early* are indexed by the code of a kind (its place in the loop); one more entry
    stands for a kind the loop does not know, which no decision takes.
    """

    within: Int64s
    early: Int64s
    wait: int
    ahead: int
    grace: int
    memory: int
    corrections: int = 0
    bucket: int

    @property
    def close(self) -> int:
        """From a decision to its close time: the largest `within`, and `grace`."""
        return self.wait + self.grace

    @property
    def remembered(self) -> int:
        """How long before the frontier a decision id is still of use."""
        return self.ahead + self.memory + self.corrections


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRules:
    """One join: windows by kind of feedback, and what its feedback makes of a decision.

    *bucket* is how many decisions close together, as a length of event time; it changes when a
    result appears, never the result. *decisions* and *feedback* are the columns events decode to.
    Without joined feedback of the kind *activation*, if there is one, a decision is no example.
    *corrections* is how long after a close, in stream time, feedback may still revise an example.
    *logs* are the decisions and each log of feedback: nothing closes before all of them are past.
    """

    within: Mapping[str, timedelta]
    early: Mapping[str, timedelta]
    grace: timedelta
    remember: timedelta
    bucket: timedelta
    label_sql: str
    label_type: Literal["bool", "float"]
    missing: Literal["negative", "censored", "dropped"]
    decisions: pl.Schema
    feedback: pl.Schema
    activation: str | None = None
    corrections: timedelta = timedelta(0)
    logs: tuple[Log, ...] = (DECISIONS, FEEDBACK)

    def __post_init__(self) -> None:
        if not self.within or set(self.within) != set(self.early):
            raise ValueError(f"kinds of within {set(self.within)} and early {set(self.early)}")
        if min(self.within.values()) < timedelta(0) or min(self.early.values()) < timedelta(0):
            raise ValueError("a window of negative length")
        if self.logs[:1] != (DECISIONS,) or len(set(self.logs)) != max(2, len(self.logs)):
            raise ValueError(f"logs {self.logs} are not decisions and then feedback")
        if self.corrections < timedelta(0):
            raise ValueError(f"corrections for {self.corrections}")
        if self.grace < timedelta(0) or self.bucket <= timedelta(0):
            raise ValueError(f"grace {self.grace} or bucket {self.bucket} out of range")
        if self.activation is not None and self.activation not in self.within:
            raise ValueError(f"activation {self.activation} is none of {set(self.within)}")

    @classmethod
    def of(cls, loop: Loop) -> Self:
        """Return the rules that *loop* declares."""
        return cls(
            within={name: kind.within for name, kind in loop.feedback.items()},
            early={name: kind.early for name, kind in loop.feedback.items()},
            grace=loop.grace,
            remember=loop.remember,
            bucket=default_bucket(loop.wait),
            label_sql=compile_label(loop),
            label_type=loop.label.type,
            missing=loop.label.missing,
            decisions=decision_frame_schema(loop),
            feedback=feedback_frame_schema(loop),
            activation=loop.activation,
            corrections=loop.corrections,
            logs=loop.logs,
        )

    @property
    def wait(self) -> timedelta:
        """How long after a decision its feedback counts at most."""
        return max(self.within.values())

    @property
    def ahead(self) -> timedelta:
        """How long before a decision its feedback counts at most: the largest `early`."""
        return max(self.early.values())

    @property
    def memory(self) -> timedelta:
        """How long a decision id is remembered, in stream time, to tell duplicates and late truth.

        Never shorter than a decision is open, nor so short that two decisions of one id could both
        take the same feedback.
        """
        return max(self.remember, self.wait + self.grace + self.ahead)

    def spans(self) -> Spans:
        """Return these rules as whole microseconds."""
        return Spans(
            within=np.array([*map(micros, self.within.values()), NEVER], dtype=np.int64),
            early=np.array([*map(micros, self.early.values()), NEVER], dtype=np.int64),
            wait=micros(self.wait),
            ahead=micros(self.ahead),
            grace=micros(self.grace),
            memory=micros(self.memory),
            corrections=micros(self.corrections),
            bucket=micros(self.bucket),
        )

    def closing_time(self, until: datetime) -> datetime:
        """Return the stream time that closes every decision made up to *until*, that one included.

        For `PartitionJoin.advance` when a finite replay ends.
        """
        spans = self.spans()
        end = (micros(until) // spans.bucket + 1) * spans.bucket
        return moment(end + spans.close + 1)


def default_bucket(wait: timedelta) -> timedelta:
    """Return the width of a bucket for windows of *wait*: a 60th, from 1 second to 10 minutes."""
    return min(max(wait // _BUCKETS_PER_WAIT, _SHORTEST_BUCKET), _LONGEST_BUCKET)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """How far back in event time a restart has to read the lake; None means all of it.

    decisions: rows whose verdict is null or 'duplicate'.
    feedback: rows whose verdict is null; besides, whatever their time, those that were not held
        against closed decisions yet (`Resume.examined`).
    examples: rows whose `feedback_offsets` tell which of that feedback is joined already.
    """

    decisions: datetime | None
    feedback: datetime | None
    examples: datetime | None


def read_back(rules: JoinRules, frontier: datetime | None) -> ReadBack:
    """Return from which event time on, inclusive, a restart at *frontier* needs the lake's rows."""
    if frontier is None:
        return ReadBack(decisions=None, feedback=None, examples=None)
    return ReadBack(
        decisions=_earlier(frontier, rules.ahead + rules.memory + rules.corrections),
        feedback=_earlier(frontier, rules.ahead),
        examples=_earlier(frontier, rules.ahead + rules.wait),
    )


def _earlier(time: datetime, by: timedelta) -> datetime | None:
    """Return *time* less *by*; None where the calendar begins later than that."""
    return time - by if time - moment(FIRST_MOMENT) >= by else None
