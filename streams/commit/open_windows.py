"""The memory of one loop's open windows in this worker: one budget for all partitions held.

Committed decisions leave for their raw table, feedback and ids for scratch files; what is due next
comes back just before its close. It is called from one event loop; what reads the lake is awaited
in a thread.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping

from tidemill.features.lake.layouts import DECISIONS, FEEDBACK
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.commit.recovery import Recovery, resume_of
from tidemill.streams.commit.spill_to_lake import RawDecisions, RawStretch, fetch
from tidemill.streams.commit.transactions import Holding, Table, patient
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import NEVER, JoinRules
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.state.memory_budget import Budget
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill import Store, Stores

CLOSING_ROWS = 200_000  # decisions that close in one round, of all partitions: they are here then


Join = Callable[[int, Resume, OpenState], PartitionJoin]


class OpenWindows:
    """The joins of the partitions held, within the budget of their loop."""

    def __init__(
        self,
        loop: Loop,
        rules: JoinRules,
        tables: Mapping[str, Table],
        scratch: Store,
        metrics: StreamMetrics,
        join: Join,
        patience_s: float,
        *,
        state: Callable[[Stores], OpenState] = OpenState,
    ) -> None:
        """Make joins by *join*, each with a *state*, when partitions are recovered."""
        self._loop = loop.loop
        self._rules = rules
        self._tables = tables
        self._scratch = scratch
        self._metrics = metrics
        self._join = join
        self._state = state
        self._patience_s = patience_s
        self._budget = Budget(loop.memory)
        self._joins: dict[int, PartitionJoin] = {}
        self._raw: dict[int, RawDecisions] = {}

    def recover(self, holdings: Mapping[int, Holding]) -> dict[int, PartitionJoin]:
        """Return the joins of newly owned partitions as the lake knows them; blocks.

        Raises:
            LakeError: the lake cannot be read.
            ScratchError: the windows exceed memory, and the local disk has no room.
        """
        self._joins, self._raw = {}, {}
        for number, held in holdings.items():
            raw = RawDecisions(self._tables["decisions"], number, self._rules)
            raw.committed = held.offset(DECISIONS)
            stores = Stores(decisions=raw, feedback=self._scratch, ids=self._scratch)
            self._raw[number] = raw
            self._joins[number] = self._join(number, resume_of(held), self._state(stores))
        lost = Recovery(self._rules, self._tables, holdings, self._joins, self.relieve)
        lost.run(self._raw)
        fetch(self._first(self._fair(CLOSING_ROWS)))
        self.relieve()
        return dict(self._joins)

    def forget(self) -> None:
        """Give up everything."""
        self._joins, self._raw = {}, {}

    async def closing(self) -> dict[int, int]:
        """Return up to when partitions may close next, once what that needs has come back.

        Not more at a time than fits: what is left is due at once.

        Raises:
            LakeError: the lake cannot be read, or has lost rows that are open.
        """
        rows = self._fair(CLOSING_ROWS)
        limits = {number: join.next_frontier(rows) for number, join in self._joins.items()}
        away = [
            kept
            for number, limit in limits.items()
            for kept in self._joins[number].state.away_before(limit)
            if isinstance(kept, RawStretch) and not kept.is_here
        ]
        if away:
            await asyncio.to_thread(patient, lambda: fetch(away), patience_s=self._patience_s)
            self._metrics.returned.labels(self._loop).inc(sum(kept.span.rows for kept in away))
        return limits

    def committed(self, holdings: Mapping[int, Holding]) -> None:
        """Take note of what is in the raw tables now, and let leave what is too much.

        Raises:
            ScratchError: the local disk has no room.
        """
        for number, held in holdings.items():
            if number in self._raw:
                self._raw[number].committed = held.offset(DECISIONS)
        self.relieve()

    def relieve(self) -> None:
        """Let open rows leave memory until the rest is within the budget.

        Raises:
            ScratchError: the local disk has no room.
        """
        states = [join.state for join in self._joins.values()]
        relief = self._budget.relieve([piece for state in states for piece in state.pieces])
        self._metrics.open_bytes.labels(self._loop).set(relief.nbytes)
        self._metrics.left.labels(self._loop).inc(relief.left)
        for table in (DECISIONS, FEEDBACK):
            away = sum(state.away[table] for state in states)
            self._metrics.away.labels(self._loop, table).set(away)

    def _fair(self, rows: int) -> int:
        return rows // max(1, len(self._joins))

    def _first(self, rows: int) -> Collection[RawStretch]:
        """Return the stretches that are due first, about *rows* decisions of each partition."""
        found = []
        for join in self._joins.values():
            counted = 0
            for kept in join.state.away_before(-NEVER):
                if not isinstance(kept, RawStretch) or counted + kept.span.rows > rows:
                    break
                found.append(kept)
                counted += kept.span.rows
        return found
