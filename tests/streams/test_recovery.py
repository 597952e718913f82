"""What a partition goes on from, read back from tables."""

from datetime import UTC, datetime

from tests.streams.rig import new_loop

from tidemill.features.layouts import TABLES
from tidemill.features.memorytables import MemoryLake
from tidemill.streams.commits import Move, claim, commit, raw_numbers
from tidemill.streams.recovery import resume_of
from tidemill.streams.rules import micros

MOMENT = datetime(2026, 3, 1, tzinfo=UTC)


def test_an_empty_log_that_was_moved_on_stays_where_it_was() -> None:
    """`tidemill close` may end a log before its first record; what comes then is judged by that."""
    loop, lake = new_loop(), MemoryLake()
    lake.create(loop)
    tables = {name: lake.table(loop.loop, name) for name in TABLES}
    held = claim(tables, [0])
    moved = raw_numbers(0, micros(MOMENT), 0, 0)
    commit("decisions", tables["decisions"], [Move(held[0], [], moved)])
    found = resume_of(claim(tables, [0])[0])
    assert found.stream_times == {"decisions": MOMENT, "feedback": None}
