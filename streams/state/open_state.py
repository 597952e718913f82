"""What one join keeps open: decisions, feedback, and the ids it remembers; in memory or away.

Which of them leave and when is the budget's to say; what is asked for is the same wherever it is.
"""

from collections.abc import Mapping

from tidemill.streams.state.dedup import SeenIds
from tidemill.streams.state.key_index import LEAVING_ROWS, KeyIndex
from tidemill.streams.state.memory_budget import Piece
from tidemill.streams.state.row_buffer import SHELF_ROWS, WaitingRows
from tidemill.streams.state.spill import Kept, Stores


class OpenState:
    """The open rows of one partition."""

    def __init__(
        self,
        stores: Stores | None = None,
        *,
        shelf_rows: int = SHELF_ROWS,
        leaving_rows: int = LEAVING_ROWS,
    ) -> None:
        """Start empty; without *stores* everything stays in memory. The sizes are for tests."""
        decisions, feedback, ids = (None,) * 3
        if stores is not None:
            decisions, feedback, ids = stores.decisions, stores.feedback, stores.ids
        self.decisions = WaitingRows(shelf_rows, store=decisions, together=1)
        self.feedback = WaitingRows(shelf_rows, store=feedback)
        self.feedback_of = KeyIndex(ids, leaving_rows=leaving_rows)
        self._ids = KeyIndex(ids, leaving_rows=leaving_rows)
        self.seen = SeenIds(self._ids)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What takes memory."""
        return self.decisions, self.feedback, self.feedback_of, self._ids

    @property
    def away(self) -> Mapping[str, int]:
        """How many open rows are not in memory, of decisions and of all feedback."""
        return {"decisions": self.decisions.away, "feedback": self.feedback.away}

    def reach(self, frontier: int, bucket: int, rows: int) -> int:
        """Return *frontier*, or an earlier one before which about *rows* decisions are open.

        One bucket at least is always before it: buckets close whole.
        """
        shelves = sorted(self.decisions.due_before(frontier))
        counted = 0
        for earliest, count in shelves:
            if counted and counted + count > rows:
                end = (shelves[0][0] // bucket + 1) * bucket
                return min(frontier, max(earliest // bucket * bucket, end))
            counted += count
        return frontier

    def away_before(self, frontier: int) -> list[Kept]:
        """Return what has to come back so that decisions before *frontier* can close, in order."""
        return self.decisions.away_before(frontier)
