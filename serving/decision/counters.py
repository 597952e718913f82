"""Counters of a decider, for metrics and the health page."""

from bisect import bisect_right
from collections import Counter

from tidemill.serving.stages.shadow import ShadowCounters

BOUNDS_US = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000)
"""Bounds of the histogram of times, in microseconds."""
NOTED = 1_000
"""So many times are counted together: counting each by itself would cost three times as much."""
SOURCES = ("model", "default", "explore", "fallback")
_BOUNDS_S = [bound / 1e6 for bound in BOUNDS_US]


class DecisionCounters:
    """The counters of one decider, written without a lock.

    A decision appends its time to the list of its source. `count` moves the times into the
    histogram once a list is long, or when a counter is read. Appending is atomic in CPython; if two
    threads count at the same time, some decisions may not be counted.
    """

    def __init__(self) -> None:
        self.feedback = 0
        self.failed = 0  # decisions whose model raised an error
        self.over_budget = 0  # decisions whose model had not enough time, or rested
        self.stages: Counter[tuple[str, str]] = Counter()  # decisions by stage and source
        self.by_id = 0  # decisions whose stage is one of their id: they have no entity
        self.shadow = ShadowCounters()
        self.took_s: dict[str, list[float]] = {name: [] for name in SOURCES}
        self._decisions = dict.fromkeys(self.took_s, 0)
        self._latency = [0] * (len(_BOUNDS_S) + 1)
        self._latency_s = 0.0

    @property
    def decisions(self) -> dict[str, int]:
        """How many decisions there were, by source."""
        self.count()
        return dict(self._decisions)

    @property
    def latency(self) -> list[int]:
        """How many decisions each bucket of `BOUNDS_US` holds; the last bucket has no bound."""
        self.count()
        return list(self._latency)

    @property
    def latency_s(self) -> float:
        """The time of all decisions together, in seconds."""
        self.count()
        return self._latency_s

    def count_stage(self, stage: str, source: str, *, is_by_id: bool) -> None:
        """Count one decision of a loop with a rollout."""
        self.stages[stage, source] += 1
        self.by_id += is_by_id

    def count(self) -> None:
        """Move the times noted so far into the histogram."""
        for source, noted in self.took_s.items():
            self.took_s[source] = []
            noted.sort()
            self._decisions[source] += len(noted)
            self._latency_s += sum(noted)
            counted = 0
            for place, bound in enumerate((*_BOUNDS_S, None)):
                up_to = len(noted) if bound is None else bisect_right(noted, bound)
                self._latency[place] += up_to - counted
                counted = up_to
