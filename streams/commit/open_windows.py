"""The memory of one loop's open windows in this worker: one budget for all partitions held.

Committed decisions leave for their raw table, feedback and ids for spill files; what is due next
comes back just before its close. It is called from one event loop; what reads the lake is awaited
in a thread.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping

from tidemill.features.lake.layouts import DECISIONS, FEEDBACK
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.commit.ownership import Lease
from tidemill.streams.commit.progress_table import ProgressTable, patient
from tidemill.streams.commit.recovery import Recovery, resume_of
from tidemill.streams.commit.spill_to_lake import RawTableSpill, RawTableSpillStore, fetch
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.state.memory_budget import MemoryBudget
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill import SpillStore, SpillStores
from tidemill.streams.units import NEVER

CLOSING_ROWS = 200_000  # decisions that close in one round, of all partitions: they are here then


Join = Callable[[int, Resume, OpenState], PartitionJoin]


class OpenWindows:
    """The joins of the partitions held, within the budget of their loop."""

    def __init__(
        self,
        *,
        loop: Loop,
        rules: JoinRules,
        tables: Mapping[str, ProgressTable],
        spill_files: SpillStore,
        metrics: StreamMetrics,
        join: Join,
        patience_s: float,
        state: Callable[[SpillStores], OpenState] = OpenState,
    ) -> None:
        """Make joins by *join*, each with a *state*, when partitions are recovered."""
        self._loop = loop.loop
        self._rules = rules
        self._tables = tables
        self._spill_files = spill_files
        self._metrics = metrics
        self._join = join
        self._state = state
        self._patience_s = patience_s
        self._budget = MemoryBudget(loop.memory)
        self._joins: dict[int, PartitionJoin] = {}
        self._raw: dict[int, RawTableSpillStore] = {}

    def recover(self, leases: Mapping[int, Lease]) -> dict[int, PartitionJoin]:
        """Return the joins of newly owned partitions as the lake knows them; blocks.

        Raises:
            LakeError: the lake cannot be read.
            ScratchError: the windows exceed memory, and the local disk has no room.
        """
        self._joins, self._raw = {}, {}
        for number, held in leases.items():
            raw = RawTableSpillStore(self._tables["decisions"], number, self._rules)
            raw.committed = held.offset(DECISIONS)
            stores = SpillStores(decisions=raw, feedback=self._spill_files, ids=self._spill_files)
            self._raw[number] = raw
            self._joins[number] = self._join(number, resume_of(held), self._state(stores))
        lost = Recovery(self._rules, self._tables, leases, self._joins, self.enforce)
        lost.run(self._raw)
        fetch(self._first(self._fair(CLOSING_ROWS)))
        self.enforce()
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
            for kept in self._joins[number].state.spilled_before(limit)
            if isinstance(kept, RawTableSpill) and not kept.is_resident
        ]
        if away:
            await asyncio.to_thread(patient, lambda: fetch(away), patience_s=self._patience_s)
            self._metrics.returned.labels(self._loop).inc(sum(kept.span.rows for kept in away))
        return limits

    def committed(self, leases: Mapping[int, Lease]) -> None:
        """Take note of what is in the raw tables now, and let leave what is too much.

        Raises:
            ScratchError: the local disk has no room.
        """
        for number, held in leases.items():
            if number in self._raw:
                self._raw[number].committed = held.offset(DECISIONS)
        self.enforce()

    def enforce(self) -> None:
        """Let open rows leave memory until the rest is within the budget.

        Raises:
            ScratchError: the local disk has no room.
        """
        states = [join.state for join in self._joins.values()]
        eviction = self._budget.enforce(
            [spillable for state in states for spillable in state.spillables]
        )
        self._metrics.open_bytes.labels(self._loop).set(eviction.nbytes)
        self._metrics.left.labels(self._loop).inc(eviction.evicted)
        for table in (DECISIONS, FEEDBACK):
            away = sum(state.spilled[table] for state in states)
            self._metrics.away.labels(self._loop, table).set(away)

    def _fair(self, rows: int) -> int:
        return rows // max(1, len(self._joins))

    def _first(self, rows: int) -> Collection[RawTableSpill]:
        """Return the stretches that are due first, about *rows* decisions of each partition."""
        found = []
        for join in self._joins.values():
            counted = 0
            for kept in join.state.spilled_before(-NEVER):
                if not isinstance(kept, RawTableSpill) or counted + kept.span.rows > rows:
                    break
                found.append(kept)
                counted += kept.span.rows
        return found
