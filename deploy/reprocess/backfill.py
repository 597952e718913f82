"""Run a backfill (`streams/reprocess/backfill.py`) in one process for each core.

Which slice is done is in the lake, in the commit of its rows. So whatever ends this, a signal or a
lost machine, the same call goes on with the slices that are missing.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime

from tidemill.deploy.reprocess.worker_pool import Job, JobResult, answers, serve
from tidemill.errors import RequestError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.sql.backfills import (
    Backfill,
    Done,
    backfills,
    begin,
    complete,
    done,
    read_backfill,
    table_name,
)
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.join.labels import Labels
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.reprocess.backfill import plan, run_slice

_CHILD = "from tidemill.deploy.reprocess.backfill import child; child()"
_SINGLE = {"POLARS_MAX_THREADS": "1"}  # a process for each core; threads would only wait


def begun(
    lake: Lake,
    loop: Loop,
    name: str,
    *,
    since: datetime | None,
    until: datetime | None,
    processes: int,
) -> Backfill:
    """Return the backfill *name*: a new one, or the one begun before with the same definition.

    Raises:
        RequestError: there is one of that name with another definition.
        LakeError: the lake cannot be read or written.
    """
    if name not in backfills(lake, loop.loop):
        backfill = plan(lake, loop, name, since=since, until=until, processes=processes)
        begin(lake, backfill)
        return backfill
    known = read_backfill(lake, loop.loop, name)
    if (known.loop.digest, known.since, known.until) != (loop.digest, since, until):
        raise RequestError(
            f"{loop.loop} has a backfill {name!r} already, with other windows, label or times",
            hint=f"give this one another --name, or: tidemill backfill {loop.loop} --drop {name}",
        )
    return known


def run(
    lake: Lake,
    backfill: Backfill,
    *,
    processes: int,
    on_slices: Callable[[int], None] = lambda _done: None,
    env: Mapping[str, str] | None = None,
) -> tuple[Done, float]:
    """Do every slice of *backfill* that is not done; return all of it and the CPU seconds spent.

    Args:
        lake: the lake, which children find by *env*.
        backfill: as `begun` returned it.
        processes: how many to use.
        on_slices: told how many slices are done, first when those of earlier runs are counted.
        env: what children need in their environment besides the one of this process.

    Raises:
        LakeError: the lake refuses, or a child has died. What is done stays done.
    """
    before = done(lake, backfill)
    count, cpu_s = len(before.slices), 0.0
    on_slices(count)
    named = {"loop": backfill.loop.loop, "name": backfill.name}
    jobs = [named | {"slice": n} for n in range(backfill.slices) if n not in before.slices]
    command = [sys.executable, "-c", _CHILD]
    for answer in answers(command, jobs, processes=processes, env={**_SINGLE, **(env or {})}):
        count += 1
        cpu_s += float(str(answer["cpu_s"]))
        on_slices(count)
    complete(lake.table(backfill.loop.loop, table_name(backfill.name)))
    return done(lake, backfill), cpu_s


def child() -> None:
    """Do slices as they are asked for on standard input, until it ends."""
    lake = Lake(LakeConfig.from_env(os.environ))
    known: dict[tuple[str, str], tuple[Backfill, Labels]] = {}
    spent_s = 0.0

    def work(job: Job) -> JobResult:
        nonlocal spent_s
        key = str(job["loop"]), str(job["name"])
        if key not in known:
            backfill = read_backfill(lake, *key)
            rules = JoinRules.of(backfill.loop)
            known[key] = backfill, Labels(rules.label_sql, label_type=rules.label_type)
        backfill, labels = known[key]
        counts = run_slice(lake, backfill, int(str(job["slice"])), labels=labels)
        before_s, spent_s = spent_s, time.process_time()
        return {**counts, "cpu_s": spent_s - before_s}

    serve(work, sys.stdin, sys.stdout)
