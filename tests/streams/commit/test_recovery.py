"""The state that a partition continues from, read back from tables."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import PARTITION, write_lake
from tests.streams.join_logs import (
    LOOP,
    ORDERS,
    SECOND,
    THREE,
    D,
    F,
    Logs,
    Shell,
    random_logs,
    rules,
    shared_labels,
)
from tests.streams.rig import new_loop

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import TABLES
from tidemill.features.lake.memory_tables import MemoryLake
from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.streams.commit.leases import claim
from tidemill.streams.commit.open_windows import OpenWindows
from tidemill.streams.commit.progress_commit import ProgressUpdate, commit, raw_numbers
from tidemill.streams.commit.recovery import resume_of
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill_store import MemorySpillStore
from tidemill.streams.units import micros

DAY = timedelta(days=1)
MOMENT = datetime(2026, 3, 1, tzinfo=UTC)


def test_an_empty_log_that_was_advanced_stays_advanced() -> None:
    """`tidemill close` may end a log before its first record, which is judged by that time."""
    loop, lake = new_loop(), MemoryLake()
    lake.create(loop)
    tables = {name: lake.table(loop.loop, name) for name in TABLES}
    lease = claim(tables, [0])
    advanced = raw_numbers(0, micros(MOMENT), 0, 0)
    commit("decisions", tables["decisions"], [ProgressUpdate(lease[0], [], advanced)])
    resumed = resume_of(claim(tables, [0])[0])
    assert resumed.stream_times == {"decisions": MOMENT, "feedback": None}


def recovered(lake: Lake, chosen: JoinRules) -> PartitionJoin:
    """Return the join of a worker that claims the partition."""
    tables = {name: lake.table(LOOP.loop, name) for name in TABLES}
    leases = claim(tables, [PARTITION], logs=THREE)

    def join(number: int, resume: Resume, state: OpenState) -> PartitionJoin:
        return PartitionJoin(chosen, resume, labels=shared_labels(chosen), state=state)

    windows = OpenWindows(
        loop=LOOP,
        rules=chosen,
        tables=tables,
        spill_files=MemorySpillStore(),
        metrics=StreamMetrics(),
        join=join,
        patience_s=1.0,
    )
    return windows.recover(leases)[PARTITION]


def test_a_restart_with_corrections_does_not_open_what_was_examined_long_ago(
    tmp_path: Path,
) -> None:
    """A file with two streams spans nearly all log positions, so by them it may be unexamined.

    Every restart of such a loop would read all feedback that it ever had.
    """
    chosen = rules(corrections=20 * SECOND, logs=THREE)
    clicks = [F("w", "z", 15), F("x", "a", 1), F("v", "b", 1)]
    shell = Shell(Logs([D("a", 0), D("b", 0), D("z", 15)], clicks, [F("o", "z", 15)]), chosen)
    shell.poll(DECISIONS, 3)
    shell.poll(FEEDBACK, 2)
    shell.poll(ORDERS, 1)
    shell.commit()
    shell.poll(FEEDBACK, 1)
    shell.commit(crash_after=2)
    lake = write_lake(shell, tmp_path)
    feedback = lake.table(LOOP.loop, "feedback")
    before, rows = set(feedback.uris()), feedback.read().drop("event_date")
    feedback.append(rows.with_columns(pl.col("at", "stream_time") - DAY), swaps=[])
    for uri in set(feedback.uris()) - before:
        Path(uri).write_bytes(b"never opened")
    assert recovered(lake, chosen).open_feedback == shell.join.open_feedback == 3


def with_delays(rng: random.Random, answers: Sequence[F]) -> list[F]:
    """Return *answers* with a late one behind every third or so."""
    delayed = []
    for each in answers:
        delayed.append(each)
        if rng.random() < 0.3:
            delayed.append(each._replace(id=f"late-{each.id}", at=each.at - rng.randint(5, 60)))
    return delayed


@pytest.mark.parametrize("seed", range(8))
def test_all_unexamined_feedback_is_read_back_whatever_the_rules_were(
    seed: int, tmp_path: Path
) -> None:
    """A version with shorter corrections recovers rows that the version before has accepted."""
    rng = random.Random(seed)
    first = rules(corrections=rng.choice((20, 60)) * SECOND, logs=THREE)
    logs = random_logs(rng, 300, streams=True)
    delayed = [with_delays(rng, answers) for answers in (logs.feedback, logs.orders)]
    shell = Shell(Logs(logs.decisions, *delayed), first)
    while not shell.closed or rng.random() < 0.5:
        for log in THREE:
            shell.poll(log, rng.choice((3, 10)))
        shell.commit()
    shell.poll(FEEDBACK, 30)
    shell.poll(ORDERS, 30)
    shell.rules = rules(corrections=rng.choice((0, 1, 5)) * SECOND, logs=THREE)
    shell.commit(crash_after=2)
    known = sum(shell.closed[-1].examined.values())
    assert sum(shell.offsets[log] for log in THREE[1:]) > known
    assert recovered(write_lake(shell, tmp_path), shell.rules).open_feedback == (
        shell.join.open_feedback
    )
