"""The open state of one join: open decisions, open feedback, and the dedup index.

The memory budget decides which rows are spilled and when. Every method answers the same for rows
in memory and for spilled ones.
"""

from collections.abc import Mapping

from tidemill.streams.state.dedup import DedupIndex
from tidemill.streams.state.key_index import SPILL_ROWS, KeyIndex
from tidemill.streams.state.memory_budget import Spillable
from tidemill.streams.state.row_buffer import SEGMENT_ROWS, RowBuffer
from tidemill.streams.state.spill_store import SpillHandle, SpillStores


class OpenState:
    """The open rows of one partition."""

    def __init__(
        self,
        stores: SpillStores | None = None,
        *,
        segment_rows: int = SEGMENT_ROWS,
        spill_rows: int = SPILL_ROWS,
    ) -> None:
        """Start empty; without *stores* everything stays in memory. Tests set the sizes."""
        decisions, feedback, ids = (None,) * 3
        if stores is not None:
            decisions, feedback, ids = stores.decisions, stores.feedback, stores.ids
        self.decisions = RowBuffer(segment_rows, store=decisions, spill_segments=1)
        self.feedback = RowBuffer(segment_rows, store=feedback)
        self.feedback_of = KeyIndex(ids, spill_rows=spill_rows)
        self._ids = KeyIndex(ids, spill_rows=spill_rows)
        self.dedup = DedupIndex(self._ids)

    @property
    def spillables(self) -> tuple[Spillable, ...]:
        """The parts that take memory."""
        return self.decisions, self.feedback, self.feedback_of, self._ids

    @property
    def spilled(self) -> Mapping[str, int]:
        """How many open decisions and how much open feedback are not in memory."""
        return {"decisions": self.decisions.spilled, "feedback": self.feedback.spilled}

    def limit_frontier(self, frontier: int, bucket: int, rows: int) -> int:
        """Return *frontier*, or an earlier one before which only about *rows* decisions are open.

        At least one bucket with open decisions is before it, because buckets close whole.
        """
        segments = sorted(self.decisions.due_before(frontier))
        counted = 0
        for earliest, count in segments:
            if counted and counted + count > rows:
                end = (segments[0][0] // bucket + 1) * bucket
                return min(frontier, max(earliest // bucket * bucket, end))
            counted += count
        return frontier

    def spilled_before(self, frontier: int) -> list[SpillHandle]:
        """Return the spilled decisions that a close at *frontier* needs, first due first."""
        return self.decisions.spilled_before(frontier)
