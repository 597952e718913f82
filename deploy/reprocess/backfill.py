"""Run a backfill (`streams/reprocess/backfill.py`) in one process for each core.

The commit that adds the rows of a slice also records the slice as done. So whatever ends the run, a
signal or a lost machine, the same call goes on with the slices that are missing.
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
_SINGLE = {"POLARS_MAX_THREADS": "1"}  # a process for each core: more threads would only wait


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
    begun_before = read_backfill(lake, loop.loop, name)
    definition = begun_before.loop.digest, begun_before.since, begun_before.until
    if definition != (loop.digest, since, until):
        raise RequestError(
            f"{loop.loop} has a backfill {name!r} already, with other windows, label or times",
            hint="give this one another --name, or: "
            f"tidemill lake backfill {loop.loop} --drop {name}",
        )
    return begun_before


def run(
    lake: Lake,
    backfill: Backfill,
    *,
    processes: int,
    on_slices: Callable[[int], None] = lambda _done: None,
    env: Mapping[str, str] | None = None,
) -> tuple[Done, float]:
    """Do the slices of *backfill* that are not done; return all that are, and the CPU seconds.

    Args:
        lake: the lake; the processes find it by *env*.
        backfill: as `begun` returned it.
        processes: how many processes to use.
        on_slices: called with the number of slices done, first with that of earlier runs.
        env: variables for the processes, besides those of this one.

    Raises:
        LakeError: the lake refuses, or a process has died. Slices that are done stay done.
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
    """Do the slices that are asked for on standard input, until it ends."""
    lake = Lake(LakeConfig.from_env(os.environ))
    opened: dict[tuple[str, str], tuple[Backfill, Labels]] = {}
    spent_s = 0.0

    def work(job: Job) -> JobResult:
        nonlocal spent_s
        key = str(job["loop"]), str(job["name"])
        if key not in opened:
            backfill = read_backfill(lake, *key)
            rules = JoinRules.of(backfill.loop)
            opened[key] = backfill, Labels(rules.label)
        backfill, labels = opened[key]
        counts = run_slice(lake, backfill, int(str(job["slice"])), labels=labels)
        before_s, spent_s = spent_s, time.process_time()
        return {**counts, "cpu_s": spent_s - before_s}

    serve(work, sys.stdin, sys.stdout)
