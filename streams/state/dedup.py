"""The dedup index of a partition: the ids of on-time decisions, for as long as the rules ask.

It distinguishes the second copy of a decision from the first, and late feedback from feedback that
belongs to no decision. An id takes 24 bytes of memory, or two once it is spilled.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from tidemill.streams.id_hashes import Keys
from tidemill.streams.state.key_index import KeyIndex
from tidemill.streams.units import NEVER, Bools, Int64s

_FIRST = np.int64(1)  # the lowest bit of the payload; the other 63 are those of the check


@dataclass(frozen=True, slots=True)
class DedupHits:
    """On-time decisions with one of the ids searched for: the *query*-th id has one made *at*."""

    query: Int64s
    at: Int64s
    is_first: Bools


class DedupIndex:
    """Ids of on-time decisions, each with its event time and whether it was the first copy."""

    def __init__(self, index: KeyIndex) -> None:
        """Store the ids in *index*."""
        self._index = index

    def add(self, ids: Keys, at: Int64s, *, on_time: Bools, is_first: Bools) -> None:
        """Add those of *ids* that came on time."""
        payload = (ids.check & ~_FIRST) | is_first
        self._index.add(ids.filter(on_time), at[on_time], payload[on_time])

    def find(self, ids: Keys) -> DedupHits:
        """Return every decision of the index with one of *ids*."""
        hits = self._index.find(ids)
        same = (hits.payload & ~_FIRST) == (ids.check & ~_FIRST)[hits.query]
        payload = hits.payload[same]
        return DedupHits(hits.query[same], hits.at[same], (payload & _FIRST) == 1)

    def repeated(self, ids: Keys, at: Int64s, since: Int64s, on_time: Bools) -> Bools:
        """Return which rows of a batch repeat an on-time decision made at or after *since*.

        Earlier rows of the same batch count like those added before. Where the times of copies
        differ, the latest time decides how long the id is remembered.
        """
        latest = _latest_in_batch(ids, np.where(on_time, at, NEVER))
        before = self.find(ids)
        np.maximum.at(latest, before.query, before.at)
        return on_time & (latest >= since) & (latest > NEVER)

    def forget(self, before: int) -> None:
        """Drop decisions earlier than *before*; some of them only at a later call."""
        self._index.forget(before)


def _latest_in_batch(ids: Keys, at: Int64s) -> Int64s:
    """Return for each row the largest *at* of the earlier rows with the same id, or NEVER."""
    ordered = ids.key[ids.order]
    if not (ordered[1:] == ordered[:-1]).any():
        return np.full(len(at), NEVER)
    above = pl.col("at").cum_max().shift(1, fill_value=NEVER).over("key", "check")
    frame = pl.DataFrame({"key": ids.key, "check": ids.check, "at": at})
    return frame.select(above).to_series().to_numpy().copy()
