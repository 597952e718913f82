"""The open windows of one loop in this worker: one memory budget for all owned partitions.

Committed decisions are spilled to their raw table, feedback and ids to spill files. Decisions that
are due are read back just before their close. All methods are called from one event loop; reads of
the lake run in a thread.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping

from tidemill.features.lake.layouts import DECISIONS, FEEDBACK
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.commit.leases import Lease
from tidemill.streams.commit.progress_table import ProgressTable, patient
from tidemill.streams.commit.recovery import Recovery, resume_of
from tidemill.streams.commit.spill_to_lake import RawTableSpill, RawTableSpillStore, fetch
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.state.memory_budget import MemoryBudget
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill_store import SpillStore, SpillStores
from tidemill.streams.units import NEVER

CLOSING_ROWS = 200_000  # decisions that one commit cycle closes at most, read back before


def closing_rows(loop: Loop) -> int:
    """Return how many decisions of *loop* one commit cycle closes at most.

    Ten items in a list take about as much memory as the rest of a decision.
    """
    items = loop.decision.items
    return CLOSING_ROWS if items is None else CLOSING_ROWS // (1 + items.max // 10)


Join = Callable[[int, Resume, OpenState], PartitionJoin]


class OpenWindows:
    """The joins of the owned partitions, within the memory budget of their loop."""

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
        """Make no joins yet: `recover` calls *join* for each partition, with a new *state*."""
        self._loop = loop.loop
        self._closing_rows = closing_rows(loop)
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
        """Return the joins of newly owned partitions, recovered from the lake; blocks.

        Raises:
            LakeError: the lake cannot be read.
            ScratchError: the windows exceed the memory budget, and the local disk is full.
        """
        self._joins, self._raw = {}, {}
        for number, lease in leases.items():
            raw = RawTableSpillStore(self._tables["decisions"], number, self._rules)
            raw.committed = lease.offset(DECISIONS)
            stores = SpillStores(decisions=raw, feedback=self._spill_files, ids=self._spill_files)
            self._raw[number] = raw
            self._joins[number] = self._join(number, resume_of(lease), self._state(stores))
        recovery = Recovery(self._rules, self._tables, leases, self._joins, self.enforce)
        recovery.run(self._raw)
        fetch(self._first_due(self._rows_per_partition(self._closing_rows)))
        self.enforce()
        return dict(self._joins)

    def forget(self) -> None:
        """Drop all joins: the partitions belong to other workers now."""
        self._joins, self._raw = {}, {}

    async def closing(self) -> dict[int, int]:
        """Read back the decisions that are due, and return the frontier of each partition's close.

        A close has about `closing_rows` decisions of all partitions at most; the rest is due at the
        close after it.

        Raises:
            LakeError: the lake cannot be read, or has lost open rows.
        """
        rows = self._rows_per_partition(self._closing_rows)
        limits = {number: join.next_frontier(rows) for number, join in self._joins.items()}
        spilled = [
            handle
            for number, limit in limits.items()
            for handle in self._joins[number].state.spilled_before(limit)
            if isinstance(handle, RawTableSpill) and not handle.is_resident
        ]
        if spilled:
            await asyncio.to_thread(patient, lambda: fetch(spilled), patience_s=self._patience_s)
            returned = sum(handle.span.rows for handle in spilled)
            self._metrics.returned.labels(self._loop).inc(returned)
        return limits

    def committed(self, leases: Mapping[int, Lease]) -> None:
        """Record which rows the raw tables have, then evict rows until the budget is kept.

        Raises:
            ScratchError: the local disk is full.
        """
        for number, lease in leases.items():
            if number in self._raw:
                self._raw[number].committed = lease.offset(DECISIONS)
        self.enforce()

    def enforce(self) -> None:
        """Evict open rows until they fit the memory budget.

        Raises:
            ScratchError: the local disk is full.
        """
        states = [join.state for join in self._joins.values()]
        eviction = self._budget.enforce(
            [spillable for state in states for spillable in state.spillables]
        )
        self._metrics.open_bytes.labels(self._loop).set(eviction.nbytes)
        self._metrics.evicted.labels(self._loop).inc(eviction.evicted)
        for table in (DECISIONS, FEEDBACK):
            spilled = sum(state.spilled[table] for state in states)
            self._metrics.spilled.labels(self._loop, table).set(spilled)

    def _rows_per_partition(self, rows: int) -> int:
        return rows // max(1, len(self._joins))

    def _first_due(self, rows: int) -> Collection[RawTableSpill]:
        """Return the spilled decisions that are due first, about *rows* of each partition."""
        first = []
        for join in self._joins.values():
            counted = 0
            for handle in join.state.spilled_before(-NEVER):
                if not isinstance(handle, RawTableSpill) or counted + handle.span.rows > rows:
                    break
                first.append(handle)
                counted += handle.span.rows
        return first
