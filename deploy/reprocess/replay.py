"""Run a replay (`streams/reprocess/replay.py`): from the beginning of the topics to their end."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from tidemill.errors import ContractError, RequestError
from tidemill.features.lake.lake import Lake
from tidemill.kafka.groups import forget_group
from tidemill.monitor.lag.log_ends import broker_logs
from tidemill.monitor.ledger import ledger
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import latest_loop
from tidemill.schemas.registry.choose import schema_store
from tidemill.streams.reprocess.replay import (
    LogPartition,
    ReplayConfig,
    begin_replay,
    end_replay,
    group_of,
    replay,
)
from tidemill.streams.runtime.worker import StreamsWorkerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The outcome of a replay; *is_whole* is False if a signal ended it before its last record."""

    loop: str
    version: int
    records: int
    deleted: int
    is_whole: bool
    counts: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """Return it as plain values for JSON."""
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
    partitions: Collection[int] | None = None,
    on_records: Callable[[int, int], None] = lambda _done, _total: None,
) -> Replayed:
    """Replay loop *name* from the Kafka of *worker* into its lake, with its commit settings.

    Args:
        worker: the Kafka, the lake and the settings.
        name: the loop; its newest published version is used.
        until: the windows of all decisions up to then are closed at the end.
        partial: whether to go on although Kafka has deleted records.
        partitions: the partitions to read, all if None. The lake then stays one of a replay.
        on_records: called with the number of records done, and of all.

    Raises:
        RequestError: the lake is not empty; or the loop does not have one of *partitions*; or Kafka
            has deleted records, and *partial* does not allow for it.
        TidemillError: as for a worker.
    """
    kafka, lake = worker.kafka, Lake(worker.lake)
    loop = latest_loop(kafka, name)
    logs = broker_logs(kafka, loop)
    _check_partitions(loop, logs.ends)
    wanted = range(loop.partitions) if partitions is None else set(partitions)
    if not set(wanted) <= set(range(loop.partitions)):
        raise RequestError(
            f"{name} has partitions 0 to {loop.partitions - 1}, not {sorted(wanted)}",
            hint="name some of them with --partition",
        )
    ends, starts = (
        {place: offset for place, offset in found.items() if place[1] in wanted}
        for found in (logs.ends, logs.starts)
    )
    deleted = sum(starts.values())
    if deleted and not partial:
        raise RequestError(
            f"Kafka has deleted the {deleted:,} oldest records of {name}",
            hint="the lake has them: see tidemill lake backfill; --partial takes what is left",
        )
    begin_replay(lake, loop)
    # nothing will come of a log whose records are all deleted
    left = {place: end if end > starts[place] else 0 for place, end in ends.items()}
    is_whole = _replay(worker, loop, left, until, on_records)
    if is_whole and partitions is None:
        end_replay(lake, loop)
    return Replayed(
        loop=name,
        version=loop.version,
        records=sum(ends.values()) - deleted,
        deleted=deleted,
        is_whole=is_whole,
        counts=_counts(lake, loop),
    )


def _check_partitions(loop: Loop, ends: Mapping[LogPartition, int]) -> None:
    found = {number + 1 for _, number in ends}
    if max(found) > loop.partitions:
        raise ContractError(
            f"loop {loop.loop} has {loop.partitions} partitions, but a topic of it {max(found)}",
            hint="its records there would not be read: publish the loop under a new name, or make "
            "the topic anew with the right number",
        )


def _replay(
    worker: StreamsWorkerConfig,
    loop: Loop,
    ends: Mapping[LogPartition, int],
    until: datetime | None,
    on_records: Callable[[int, int], None],
) -> bool:
    """Replay the logs of *loop* up to *ends*; return whether they were read to there."""
    config = ReplayConfig(
        kafka=worker.kafka,
        lake=worker.lake,
        loop=loop,
        ends=ends,
        until=until,
        fetch_records=worker.fetch_records,
        cadence=worker.cadence,
        scratch=worker.scratch,
    )
    group, store = group_of(loop), schema_store(worker.kafka, worker.env)
    total = sum(ends.values())
    try:
        return replay(config, store, group, lambda done: on_records(done, total))
    finally:
        forget_group(worker.kafka, group)


def _counts(lake: Lake, loop: Loop) -> dict[str, int]:
    """Return how the decisions of all partitions ended, and how many are open."""
    accounts = [each for each in ledger(lake, loop) if each.log == "decisions"]
    ends = {name: sum(each.ends[name] for each in accounts) for name in accounts[0].ends}
    return {**ends, "open": sum(account.open for account in accounts)}
