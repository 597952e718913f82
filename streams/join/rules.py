"""The rules of a join: which feedback belongs to a decision, and how long to wait for it.

`JoinRules` is a value made from a loop. `Spans` has its lengths of time in whole microseconds, for
the computation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Self

import numpy as np
import polars as pl

from tidemill.schemas.events.schemas import (
    CIRCUMSTANCES,
    decision_frame_schema,
    example_frame_schema,
    feedback_frame_schema,
)
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import compile_label
from tidemill.schemas.loop.sql.label_query import LabelQuery
from tidemill.streams.units import FIRST_MOMENT, NEVER, Int64s, micros, moment

_SHORTEST_BUCKET = timedelta(seconds=1)
_LONGEST_BUCKET = timedelta(minutes=10)
_BUCKETS_PER_WAIT = 60
_OPEN = (
    *("id", "at", "entity", "features", "action", "score", "propensity", "source"),
    *("model_version", "policy_version", "loop_version", *CIRCUMSTANCES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """The lengths of time of a join in microseconds.

    *within* and *early* are indexed by the code of a kind, which is its index in the loop. One more
    entry is for kinds that are not in the loop, which no decision takes.
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
        """From a decision to its close time: the largest `within` plus `grace`."""
        return self.wait + self.grace

    @property
    def remembered(self) -> int:
        """How long before the frontier the id of a decision is still needed."""
        return self.ahead + self.memory + self.corrections


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRules:
    """One join: windows by kind of feedback, and how feedback becomes a label.

    *bucket* is the slice of event time whose decisions close together; it changes when a result
    appears, never the result. *decisions* and *feedback* are the columns of decoded events.
    A decision without joined feedback of the kind *activation*, if there is one, is no example.
    *corrections* is how long after a close, in stream time, feedback may still revise an example.
    *logs* are the decisions and each log of feedback; a window closes once all of them are past it.
    """

    within: Mapping[str, timedelta]
    early: Mapping[str, timedelta]
    grace: timedelta
    remember: timedelta
    bucket: timedelta
    label: LabelQuery
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
            raise ValueError(f"corrections of negative length {self.corrections}")
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
            label=compile_label(loop, is_published=True),
            missing=loop.label.missing,
            decisions=decision_frame_schema(loop),
            feedback=feedback_frame_schema(loop),
            activation=loop.activation,
            corrections=loop.corrections,
            logs=loop.logs,
        )

    @property
    def has_items(self) -> bool:
        """Whether each decision brings its items: then an example is about one of them."""
        return "items" in self.decisions

    @property
    def of_decision(self) -> pl.Schema:
        """The columns that an example has of its decision."""
        return example_frame_schema(self.decisions)

    @property
    def key(self) -> list[str]:
        """The columns that identify an example of a partition, whatever its revision."""
        return ["offset", "position"] if self.has_items else ["offset"]

    @property
    def open_columns(self) -> tuple[str, ...]:
        """The columns of an open decision."""
        return (*_OPEN, *(["items"] if self.has_items else []), "offset")

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
        """How long a decision id is remembered, in stream time, to detect duplicates.

        At least as long as a decision is open, and so long that two decisions of one id can never
        both take the same feedback.
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
        """Return the stream time that closes every decision made at or before *until*.

        A finite replay passes it to `PartitionJoin.advance` when it ends.
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

    Attributes:
        decisions: for rows whose verdict is null or 'duplicate'.
        feedback: for rows whose verdict is null. Rows that were not compared with closed decisions
            yet (`Resume.examined`) are needed whatever their time is.
        examples: for rows whose `feedback_offsets` have the feedback that is joined already.
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
    """Return *time* minus *by*; None if that is before the beginning of year 1."""
    return time - by if time - moment(FIRST_MOMENT) >= by else None
