"""Run a replay (`streams/reprocess/replay.py`) with a bar that shows how far it has come."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tidemill.errors import BrokerError
from tidemill.features.lake.lake import Lake
from tidemill.kafka.groups import forget_group
from tidemill.monitor.ledger import ledger
from tidemill.monitor.log_ends import log_ends, log_starts
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import latest_loop
from tidemill.schemas.registry.choose import schema_store
from tidemill.streams.reprocess.replay import (
    ReplayConfig,
    begin_replay,
    end_replay,
    group_of,
    replay,
)
from tidemill.streams.runtime.worker import StreamsWorkerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay has come to; *is_whole* is False if a signal ended it before the logs did."""

    loop: str
    version: int
    records: int
    deleted: int
    is_whole: bool
    counts: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """Return it as JSON knows it."""
        return {
            "loop": self.loop,
            "version": self.version,
            "records": self.records,
            "deleted": self.deleted,
            "whole": self.is_whole,
            **self.counts,
        }


def run_replay(
    worker: StreamsWorkerConfig,
    name: str,
    *,
    until: datetime | None,
    partial: bool,
    console: Console,
) -> Replayed:
    """Replay loop *name* as *worker* says: from its Kafka, into its lake, in its commits.

    Raises:
        BrokerError: Kafka has deleted records, and *partial* does not allow for it.
        RequestError: the lake is not empty.
        TidemillError: as for a worker.
    """
    kafka, lake = worker.kafka, Lake(worker.lake)
    loop = latest_loop(kafka, name)
    ends, starts = log_ends(kafka, loop), log_starts(kafka, loop)
    deleted = sum(starts.values())
    if deleted and not partial:
        raise BrokerError(
            f"Kafka has deleted the {deleted:,} oldest records of {name}",
            hint="the lake has them, see tidemill backfill; --partial takes what is left",
        )
    begin_replay(lake, loop)
    # of a log that is deleted as a whole nothing will come
    left = {place: end if end > starts[place] else 0 for place, end in ends.items()}
    config = ReplayConfig(
        kafka=kafka,
        lake=worker.lake,
        loop=loop,
        ends=left,
        until=until,
        fetch_records=worker.fetch_records,
        cadence=worker.cadence,
        scratch=worker.scratch,
    )
    group, store = group_of(loop), schema_store(kafka, worker.env)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = Progress(*columns, TimeRemainingColumn(), console=console)
    shown.disable = not console.is_terminal
    with shown as progress:
        bar = progress.add_task(name, total=sum(left.values()))
        try:
            is_whole = replay(config, store, group, lambda n: progress.update(bar, completed=n))
        finally:
            forget_group(kafka, group)
    if is_whole:
        end_replay(lake, loop)
    return Replayed(
        loop=name,
        version=loop.version,
        records=sum(ends.values()) - deleted,
        deleted=deleted,
        is_whole=is_whole,
        counts=_counts(lake, loop),
    )


def _counts(lake: Lake, loop: Loop) -> dict[str, int]:
    """Return what became of the decisions, over all partitions."""
    accounts = [each for each in ledger(lake, loop) if each.log == "decisions"]
    ends = {name: sum(each.ends[name] for each in accounts) for name in accounts[0].ends}
    return {**ends, "open": sum(account.open for account in accounts)}
