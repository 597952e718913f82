"""An index by key in sorted runs, like a log-structured merge tree: new entries in, old ones out.

Adding a batch sorts it and merges runs of similar size, so n entries cost n log n in all. A search
costs one bisection in each run; nothing is ever scanned whole. A run that is large enough is
sealed: it is merged no further, and it may be spilled.
"""

from tidemill.streams.id_hashes import Keys
from tidemill.streams.state.sorted_runs import Hits, SealedRun, SortedRun
from tidemill.streams.state.spill_store import SpillStore
from tidemill.streams.units import Int64s

__all__ = ["Hits", "KeyIndex"]

SEALED_ROWS = 2**20  # beyond, a merge takes tens of milliseconds and as much memory again
SPILL_ROWS = 2**15  # a smaller run frees little memory, and each spilled run slows every search


class KeyIndex:
    """Entries (key, at, payload), found by key and forgotten by *at*, a time in microseconds."""

    def __init__(self, store: SpillStore | None = None, *, spill_rows: int = SPILL_ROWS) -> None:
        """Start empty; runs of at least *spill_rows* may be spilled to *store*."""
        self._runs: list[SortedRun] = []
        self._sealed: list[SealedRun] = []
        self._store = store
        self._spill_rows = spill_rows

    def __len__(self) -> int:
        return sum(map(len, self._runs)) + sum(map(len, self._sealed))

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return sum(run.nbytes for run in self._runs) + sum(run.nbytes for run in self._sealed)

    @property
    def spilled(self) -> int:
        """How many entries are in the store."""
        return sum(len(run) for run in self._sealed if not run.is_resident)

    def add(self, keys: Keys, at: Int64s, payload: Int64s) -> None:
        """Add one entry for each element; the three have one length."""
        if not len(at):
            return
        runs = self._runs
        runs.append(SortedRun.of(keys.key, at, payload, keys.order))
        while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
            newer = runs.pop()
            runs[-1] = runs[-1].merged(newer)
        if len(runs[0]) >= SEALED_ROWS:
            self._sealed.append(SealedRun(runs.pop(0)))

    def find(self, keys: Keys) -> Hits:
        """Return every entry whose key is among *keys*, in no particular order."""
        order = keys.order
        wanted = keys.key[order]
        if not len(wanted):
            return Hits.concat(())
        unsealed = [run.find(wanted) for run in self._runs]
        hits = Hits.concat([*unsealed, *(run.find(wanted) for run in self._sealed)])
        return Hits(order[hits.query], hits.at, hits.payload)

    def forget(self, before: int) -> None:
        """Drop entries earlier than *before*; some of them only at a later call."""
        self._runs = [run for run in (old.pruned(before) for old in self._runs) if run is not None]
        self._sealed = [
            run for run in (old.pruned(before) for old in self._sealed) if run is not None
        ]

    def evict(self, nbytes: int) -> int:
        """Spill the largest runs until about *nbytes* are free; return how many bytes are.

        Raises:
            TidemillError: the store is full.
        """
        before = self.nbytes
        if self._store is None:
            return 0
        for run in sorted(self._sealed, key=len, reverse=True):
            if before - self.nbytes >= nbytes:
                break
            run.evict(self._store)
        while self._runs and before - self.nbytes < nbytes:
            if len(self._runs[0]) < self._spill_rows:
                break
            self._sealed.append(SealedRun(self._runs.pop(0)))
            self._sealed[-1].evict(self._store)
        return before - self.nbytes
