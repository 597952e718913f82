"""The decision ids of a partition that came on time, remembered for as long as the rules ask.

They tell a second copy of a decision from the first, and late feedback from feedback that belongs
to no decision. An id takes 24 bytes, or two once it has left memory.
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
    """On-time decisions that bear an id asked for: the *query*-th id was seen *at*."""

    query: Int64s
    at: Int64s
    is_first: Bools


class DedupIndex:
    """Ids of on-time decisions with their event times; of each also whether it was the first."""

    def __init__(self, index: KeyIndex) -> None:
        """Remember them in *index*."""
        self._index = index

    def add(self, ids: Keys, at: Int64s, *, on_time: Bools, is_first: Bools) -> None:
        """Remember those of *ids* that came on time."""
        payload = (ids.check & ~_FIRST) | is_first
        self._index.add(ids.only(on_time), at[on_time], payload[on_time])

    def find(self, ids: Keys) -> DedupHits:
        """Return every remembered decision that bears one of *ids*."""
        hits = self._index.find(ids)
        same = (hits.payload & ~_FIRST) == (ids.check & ~_FIRST)[hits.query]
        payload = hits.payload[same]
        return DedupHits(hits.query[same], hits.at[same], (payload & _FIRST) == 1)

    def repeated(self, ids: Keys, at: Int64s, since: Int64s, on_time: Bools) -> Bools:
        """Tell which rows of a batch repeat an on-time decision remembered *since* then.

        An earlier row of the batch counts as well as what was added before. Of copies whose times
        differ, the latest time decides how long the id is remembered.
        """
        seen_at = _latest_in_batch(ids, np.where(on_time, at, NEVER))
        before = self.find(ids)
        np.maximum.at(seen_at, before.query, before.at)
        return on_time & (seen_at >= since) & (seen_at > NEVER)

    def forget(self, before: int) -> None:
        """Drop decisions earlier than *before*; sooner or later, so it must not matter when."""
        self._index.forget(before)


def _latest_in_batch(ids: Keys, at: Int64s) -> Int64s:
    """Return for each row the largest *at* of the rows of the same id above it, or NEVER."""
    ordered = ids.key[ids.order]
    if not (ordered[1:] == ordered[:-1]).any():
        return np.full(len(at), NEVER)
    above = pl.col("at").cum_max().shift(1, fill_value=NEVER).over("key", "check")
    frame = pl.DataFrame({"key": ids.key, "check": ids.check, "at": at})
    return frame.select(above).to_series().to_numpy().copy()
