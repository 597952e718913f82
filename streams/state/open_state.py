"""What one join keeps open: decisions, feedback, and the ids it remembers; in memory or away.

Which of them leave and when is the budget's to say; what is asked for is the same wherever it is.
"""

from collections.abc import Mapping

from tidemill.streams.state.dedup import DedupIndex
from tidemill.streams.state.key_index import SPILL_ROWS, KeyIndex
from tidemill.streams.state.memory_budget import Spillable
from tidemill.streams.state.row_buffer import SEGMENT_ROWS, RowBuffer
from tidemill.streams.state.spill import SpillHandle, SpillStores


class OpenState:
    """The open rows of one partition."""

    def __init__(
        self,
        stores: SpillStores | None = None,
        *,
        segment_rows: int = SEGMENT_ROWS,
        spill_rows: int = SPILL_ROWS,
    ) -> None:
        """Start empty; without *stores* everything stays in memory. The sizes are for tests."""
        decisions, feedback, ids = (None,) * 3
        if stores is not None:
            decisions, feedback, ids = stores.decisions, stores.feedback, stores.ids
        self.decisions = RowBuffer(segment_rows, store=decisions, together=1)
        self.feedback = RowBuffer(segment_rows, store=feedback)
        self.feedback_of = KeyIndex(ids, spill_rows=spill_rows)
        self._ids = KeyIndex(ids, spill_rows=spill_rows)
        self.dedup = DedupIndex(self._ids)

    @property
    def spillables(self) -> tuple[Spillable, ...]:
        """What takes memory."""
        return self.decisions, self.feedback, self.feedback_of, self._ids

    @property
    def spilled(self) -> Mapping[str, int]:
        """How many open rows are not in memory, of decisions and of all feedback."""
        return {"decisions": self.decisions.spilled, "feedback": self.feedback.spilled}

    def reach(self, frontier: int, bucket: int, rows: int) -> int:
        """Return *frontier*, or an earlier one before which about *rows* decisions are open.

        One bucket at least is always before it: buckets close whole.
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
        """Return what has to come back so that decisions before *frontier* can close, in order."""
        return self.decisions.spilled_before(frontier)
