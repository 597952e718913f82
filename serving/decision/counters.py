"""What a decider has done, in numbers for the operator."""

from bisect import bisect_right

BOUNDS_US = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000)
"""Bounds of the histogram of times, in microseconds."""
NOTED = 1_000
"""Decisions whose times are counted together: one by one would cost three times as much."""
_BOUNDS_S = [bound / 1e6 for bound in BOUNDS_US]


class DecisionCounters:
    """What one decider has counted; written without a lock, read by whoever asks.

    How long a decision took is noted by source, and counted when enough have been noted or when
    somebody asks. Appending to a list is one step for CPython's threads; should two count at once,
    a count may be lost, and nothing else.
    """

    def __init__(self) -> None:
        self.feedback = 0
        self.failed = 0  # decisions that the model raised on
        self.over_budget = 0  # decisions that it had no time for
        self.took_s: dict[str, list[float]] = {"model": [], "default": [], "fallback": []}
        self._decisions = dict.fromkeys(self.took_s, 0)
        self._latency = [0] * (len(_BOUNDS_S) + 1)
        self._latency_s = 0.0

    @property
    def decisions(self) -> dict[str, int]:
        """How many decisions there were, by what made them."""
        self.count()
        return dict(self._decisions)

    @property
    def latency(self) -> list[int]:
        """How many decisions are in the bucket of each of `BOUNDS_US`, and in that of the rest."""
        self.count()
        return list(self._latency)

    @property
    def latency_s(self) -> float:
        """How long all decisions took together, in seconds."""
        self.count()
        return self._latency_s

    def count(self) -> None:
        """Count what was noted since the last time."""
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
