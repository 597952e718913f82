"""What is read again and again: its last value, how old that is, and why there is none.

A kind of reading fails as a whole (`Reading`); one that reads loops goes on beside a loop that
cannot be read (`LoopRows`).
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from tidemill.errors import LakeError, TidemillError
from tidemill.schemas.loop.definition import Loop

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[T]):
    """The outcome of the last try; a reading that failed has no value, old ones would look well.

    Attributes:
        name: what was read.
        good_s: for how long a value may stand for now, while the next one is being read.
        value: what was found; None after a failure, or before the first try.
        at_s: when it last succeeded, in seconds since the epoch; before that, when it was begun.
        problem: why there is no value, with a hint.
        failures: tries that have failed since then.
    """

    name: str
    good_s: float = math.inf
    value: T | None = None
    at_s: float = field(default_factory=time.time)
    problem: str | None = "nothing has been read yet"
    failures: int = 0

    def age_s(self, now_s: float) -> float:
        """Return for how long nothing newer is known."""
        return max(0.0, now_s - self.at_s)

    def as_of(self, now_s: float) -> "Reading[T]":
        """Return it as it is worth at *now_s*: without the value if that is too old."""
        if self.problem is not None or self.age_s(now_s) <= self.good_s:
            return self
        return replace(
            self,
            value=None,
            problem=f"no answer yet; the last one is {self.age_s(now_s):.0f} s old",
        )

    def again(self, read: Callable[[], T]) -> "Reading[T]":
        """Return the next reading, by *read*; its `TidemillError` is logged once for each outage.

        Raises:
            Exception: any other error of *read*.
        """
        try:
            value = read()
        except TidemillError as error:
            if not self.failures:
                logger.warning("%s: not read: %s", self.name, error)
            return replace(self, value=None, problem=str(error), failures=self.failures + 1)
        if self.failures:
            logger.warning("%s: read again, after %d failures", self.name, self.failures)
        return Reading(name=self.name, good_s=self.good_s, value=value, problem=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRows(Generic[T]):
    """What was read of many loops, and of which it could not be.

    Attributes:
        rows: of all loops that could be read.
        unread: why another one could not be, by its name.
    """

    rows: Sequence[T]
    unread: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, loops: Sequence[Loop], read: Callable[[Loop], Iterable[T]]) -> "LoopRows[T]":
        """Return what *read* returns for each of *loops*.

        Raises:
            LakeError: *read* raised it for each of them.
        """
        rows: list[T] = []
        failures: dict[str, LakeError] = {}
        for loop in loops:
            try:
                rows += list(read(loop))
            except LakeError as error:
                failures[loop.loop] = error
        if failures and len(failures) == len(loops):
            raise next(iter(failures.values()))
        return cls(rows=rows, unread={name: error.what for name, error in failures.items()})
