"""Sorted runs of entries (key, at, payload): small ones are merged, sealed ones may be spilled.

A sealed run has a Bloom filter. Once it is spilled, memory has only the filter and the first key of
each block, and a search reads the blocks that may have the keys it looks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tidemill.streams.state.bloom import BloomFilter
from tidemill.streams.state.spill_store import SpillHandle, SpillStore
from tidemill.streams.units import Int64s

BLOCK = 256
COLUMNS = ("key", "at", "payload")


@dataclass(frozen=True, slots=True)
class Hits:
    """The entries that a search found: *at* and *payload* for the *query*-th key, many to many."""

    query: Int64s
    at: Int64s
    payload: Int64s

    @classmethod
    def concat(cls, parts: Sequence["Hits"]) -> "Hits":
        """Return the hits of all *parts*."""
        if not parts:
            none = np.empty(0, dtype=np.int64)
            return cls(none, none, none)
        return cls(
            np.concatenate([hits.query for hits in parts]),
            np.concatenate([hits.at for hits in parts]),
            np.concatenate([hits.payload for hits in parts]),
        )


@dataclass(frozen=True, slots=True)
class SortedRun:
    """Entries sorted by key."""

    key: Int64s
    at: Int64s
    payload: Int64s
    earliest: int
    latest: int

    @classmethod
    def of(cls, key: Int64s, at: Int64s, payload: Int64s, order: Int64s) -> "SortedRun":
        """Return the entries in the order *order*, which sorts them by key."""
        at = at[order]
        return cls(key[order], at, payload[order], int(at.min()), int(at.max()))

    def __len__(self) -> int:
        return len(self.key)

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self.key.nbytes + self.at.nbytes + self.payload.nbytes

    def merged(self, newer: "SortedRun") -> "SortedRun":
        """Return the entries of both."""
        key = np.concatenate((self.key, newer.key))
        at = np.concatenate((self.at, newer.at))
        payload = np.concatenate((self.payload, newer.payload))
        # numpy's stable sort detects that both halves are sorted already, and merges them.
        return SortedRun.of(key, at, payload, np.argsort(key, kind="stable"))

    def pruned(self, before: int) -> "SortedRun | None":
        """Return the run without most entries earlier than *before*; None if all of them are.

        A run is rewritten only once a quarter of its time span is past, so that each entry is
        copied a bounded number of times.
        """
        past = before - self.earliest
        if past <= 0 or past * 4 < self.latest - self.earliest:
            return self
        if self.latest < before:
            return None
        return SortedRun.of(self.key, self.at, self.payload, np.flatnonzero(self.at >= before))

    def find(self, wanted: Int64s) -> Hits:
        """Return the entries whose key is in *wanted*, which is sorted."""
        first = np.searchsorted(self.key, wanted)
        inside = np.minimum(first, len(self.key) - 1)
        query = np.flatnonzero(self.key[inside] == wanted)
        first = first[query]
        count = np.searchsorted(self.key, wanted[query], side="right") - first
        if len(query) and count.max() > 1:
            query, first = np.repeat(query, count), _expanded(first, count)
        return Hits(query, self.at[first], self.payload[first])


class SealedRun:
    """A run that is merged no further, resident or spilled."""

    def __init__(self, run: SortedRun) -> None:
        self.earliest, self.latest = run.earliest, run.latest
        self._length = len(run)
        self._filter = BloomFilter(run.key)
        self._first_keys = run.key[::BLOCK].copy()
        self._run: SortedRun | None = run
        self._spilled: SpillHandle | None = None

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """How much memory it takes now."""
        resident = 0 if self._run is None else self._run.nbytes
        return resident + self._filter.nbytes + self._first_keys.nbytes

    @property
    def is_resident(self) -> bool:
        """Whether its entries are in memory."""
        return self._run is not None

    def evict(self, store: SpillStore) -> None:
        """Spill the entries to *store*, if it takes them."""
        if self._run is not None:
            columns = (self._run.key, self._run.at, self._run.payload)
            self._spilled = store.spill(pl.DataFrame(dict(zip(COLUMNS, columns, strict=True))))
            if self._spilled is not None:
                self._run = None

    def pruned(self, before: int) -> "SealedRun | None":
        """Return the run without most entries earlier than *before*; None if all of them are."""
        if self.latest < before:
            return None
        if self._run is None:
            return self
        run = self._run.pruned(before)
        return self if run is self._run or run is None else SealedRun(run)

    def find(self, wanted: Int64s) -> Hits:
        """Return the entries whose key is in *wanted*, which is sorted."""
        passed = np.flatnonzero(self._filter.may_contain(wanted))
        if not len(passed):
            return Hits.concat(())
        some = wanted[passed]
        hits = (self._run or self._read_blocks(some)).find(some)
        return Hits(passed[hits.query], hits.at, hits.payload)

    def _read_blocks(self, wanted: Int64s) -> SortedRun:
        """Return the blocks that may have entries of *wanted*, read from the store."""
        if self._spilled is None:
            raise RuntimeError("a run that is neither resident nor spilled")
        first = np.maximum(np.searchsorted(self._first_keys, wanted) - 1, 0)
        count = np.maximum(np.searchsorted(self._first_keys, wanted, side="right") - first, 1)
        blocks = np.unique(_expanded(first, count))
        rows = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        frame = self._spilled.take(rows[: np.searchsorted(rows, self._length)], COLUMNS)
        key, at, payload = (frame[name].to_numpy() for name in COLUMNS)
        return SortedRun(key, at, payload, self.earliest, self.latest)


def _expanded(first: Int64s, count: Int64s) -> Int64s:
    """Return for each element first, first + 1, ..., *count* numbers in all, concatenated."""
    ends = np.cumsum(count)
    steps: Int64s = np.arange(ends[-1], dtype=np.int64)
    return steps - np.repeat(ends - count, count) + np.repeat(first, count)
