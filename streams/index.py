"""An index over ids that only grows at one end and is forgotten at the other: sorted runs.

Adding a batch sorts it and merges runs of like size, so n entries cost n log n in all; a search
costs one bisection a run. Nothing is ever scanned whole. It knows nothing of decisions or windows.
"""

from dataclasses import dataclass

import numpy as np

from tidemill.streams.keys import Keys
from tidemill.streams.rules import Int64s


@dataclass(frozen=True, slots=True)
class _Run:
    """Entries sorted by key."""

    key: Int64s
    at: Int64s
    payload: Int64s
    earliest: int
    latest: int

    @classmethod
    def of(cls, key: Int64s, at: Int64s, payload: Int64s, order: Int64s) -> "_Run":
        at = at[order]
        return cls(key[order], at, payload[order], int(at.min()), int(at.max()))

    def merged(self, newer: "_Run") -> "_Run":
        key = np.concatenate((self.key, newer.key))
        at = np.concatenate((self.at, newer.at))
        payload = np.concatenate((self.payload, newer.payload))
        # Of numpy's sorts the stable one is the one that merges runs it finds sorted.
        return _Run.of(key, at, payload, np.argsort(key, kind="stable"))

    def since(self, at: int) -> "_Run | None":
        if self.earliest >= at:
            return self
        if self.latest < at:
            return None
        kept = np.flatnonzero(self.at >= at)
        return _Run.of(self.key, self.at, self.payload, kept)


@dataclass(frozen=True, slots=True)
class Hits:
    """What a search found: entry *at*/*payload* for the *query*-th key asked for, many to many."""

    query: Int64s
    at: Int64s
    payload: Int64s


class KeyIndex:
    """Entries (key, at, payload), found by key and forgotten by *at*, a time in microseconds."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.key) for run in self._runs)

    def add(self, keys: Keys, at: Int64s, payload: Int64s) -> None:
        """Add one entry for each element; the three have one length."""
        if not len(at):
            return
        runs = self._runs
        runs.append(_Run.of(keys.key, at, payload, keys.order))
        while len(runs) > 1 and len(runs[-2].key) < 2 * len(runs[-1].key):
            newer = runs.pop()
            runs[-1] = runs[-1].merged(newer)

    def find(self, keys: Keys) -> Hits:
        """Return every entry whose key is among *keys*, in no particular order."""
        order = keys.order
        wanted = keys.key[order]
        found = [_found_in(run, wanted) for run in self._runs] if len(wanted) else []
        if not found:
            none = np.empty(0, dtype=np.int64)
            return Hits(none, none, none)
        query = np.concatenate([hits.query for hits in found])
        at = np.concatenate([hits.at for hits in found])
        return Hits(order[query], at, np.concatenate([hits.payload for hits in found]))

    def forget(self, before: int) -> None:
        """Drop entries earlier than *before*.

        Runs wholly earlier go at once; others are rewritten once a quarter of their time is past,
        so that each entry is copied a bounded number of times.
        """
        kept = []
        for run in self._runs:
            gone = before - run.earliest
            rewrite = gone > 0 and gone * 4 >= run.latest - run.earliest
            remaining = run.since(before) if rewrite else run
            if remaining is not None:
                kept.append(remaining)
        self._runs = kept


def _found_in(run: _Run, wanted: Int64s) -> Hits:
    """Return the entries of *run* whose key is in *wanted*, which is sorted."""
    first = np.searchsorted(run.key, wanted)
    inside = np.minimum(first, len(run.key) - 1)
    query = np.flatnonzero(run.key[inside] == wanted)
    first = first[query]
    count = np.searchsorted(run.key, wanted[query], side="right") - first
    if len(query) and count.max() > 1:
        query, first = np.repeat(query, count), _expanded(first, count)
    return Hits(query, run.at[first], run.payload[first])


def _expanded(first: Int64s, count: Int64s) -> Int64s:
    """Return first, first + 1, ... for *count* steps each, one after another."""
    ends = np.cumsum(count)
    steps: Int64s = np.arange(ends[-1], dtype=np.int64)
    return steps - np.repeat(ends - count, count) + np.repeat(first, count)
