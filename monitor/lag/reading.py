"""One reading of the lag: what the child process of a `LagReader` does.

The order of the requests matters: group offsets first, then the bounds of the logs, so that an
offset past the end of its log is one.
"""

import time
from collections.abc import Iterable, Mapping
from functools import cached_property

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, broker_errors
from tidemill.monitor.lag.group_lag import GroupLag, PartitionLag
from tidemill.monitor.lag.group_offsets import (
    NEWEST,
    GroupOffsets,
    LogBounds,
    PartitionId,
    Unread,
)
from tidemill.monitor.lag.unread import UnreadReader, UnreadRecords

Offsets = Mapping[PartitionId, int | None]
SCAN_S = 3.0  # for the unread records of all partitions


class LagReading:
    """Reads the lag; it keeps its connections for the next reading."""

    def __init__(self, config: KafkaConfig, timeout_s: float) -> None:
        self._config = config
        self._offsets = GroupOffsets(config, timeout_s)

    @cached_property
    def _unread(self) -> UnreadReader:
        return UnreadReader(self._config)

    def read(self, group: str | None) -> list[GroupLag]:
        """Return the lag of *group*, or of every group that has offsets or members.

        Raises:
            BrokerError: no answer in time, or a missing permission.
        """
        self._offsets.client.poll(0)  # passes on what the client has logged meanwhile
        with broker_errors(self._config, "the lag could not be read", self._offsets.client):
            names = self._offsets.groups() if group is None else [group]
            committed = self._offsets.committed(names)
            members = self._offsets.members(names)
            lags = self._lags({name: {**members[name].unread, **committed[name]} for name in names})
            found = [
                GroupLag(group=name, members=members[name].count, partitions=tuple(lags[name]))
                for name in names
                if lags[name] or members[name].count
            ]
            if not found and not self._offsets.sees_all():
                raise _nothing_shown(self._config)
        return found

    def newest_ms(self, partitions: Mapping[str, int]) -> dict[str, int | None]:
        """Return the time of the newest record of each topic, in ms of the broker; None if empty.

        Raises:
            BrokerError: no answer in time.
        """
        places = {(topic, number) for topic, count in partitions.items() for number in range(count)}
        client = self._offsets.client
        with broker_errors(self._config, "the ends of the logs could not be read", client):
            found = self._offsets.find(dict.fromkeys(places, NEWEST))
        newest: dict[str, int | None] = dict.fromkeys(partitions)
        for (topic, _), answer in found.items():
            if answer.timestamp_ms >= 0:
                newest[topic] = max(answer.timestamp_ms, newest[topic] or 0)
        return newest

    def _lags(self, committed: Mapping[str, Offsets]) -> dict[str, list[PartitionLag]]:
        logs = self._offsets.bounds({place for offsets in committed.values() for place in offsets})
        unread = {
            (place, at)
            for offsets in committed.values()
            for place, offset in offsets.items()
            if place in logs and (at := logs[place].next_of(offset)) < logs[place].stable
        }
        records = self._records(unread, logs)
        untold = {key for key in unread if records[key].oldest_ms is None}
        times = self._offsets.times({key for key in untold if not records[key].is_whole})
        now_ms = time.time() * 1000
        return {
            name: [
                partition_lag(
                    place,
                    offset,
                    logs[place],
                    records.get((place, at := logs[place].next_of(offset))),
                    times.get((place, at)),
                    now_ms,
                )
                for place, offset in sorted(offsets.items(), key=lambda item: item[0])
                if place in logs
            ]
            for name, offsets in committed.items()
        }

    def _records(
        self, unread: Iterable[Unread], logs: Mapping[PartitionId, LogBounds]
    ) -> dict[Unread, UnreadRecords]:
        """Read from each of *unread* to the end; groups of one partition one after the other."""
        found: dict[Unread, UnreadRecords] = {}
        deadline = time.monotonic() + SCAN_S
        left = set(unread)
        while left:
            ranges = {place: (at, logs[place].stable) for place, at in left}
            read = self._unread.read(ranges, within_s=deadline - time.monotonic())
            found |= {(place, ranges[place][0]): records for place, records in read.items()}
            left -= found.keys()
        return found


def partition_lag(
    place: PartitionId,
    committed: int | None,
    log: LogBounds,
    records: UnreadRecords | None,
    first_ms: int | None,
    now_ms: float,
) -> PartitionLag:
    """Return the lag of one partition.

    Args:
        place: its topic and number.
        committed: the next offset to read, if one was committed.
        log: the offsets that it has.
        records: what was read of the unread records; None if there are none that can be read.
        first_ms: the time of the first unread offset, where no record was read.
        now_ms: the time now.
    """
    at = log.next_of(committed)
    readable = max(0, log.stable - at)
    open_txn = max(0, log.end - max(at, log.stable))
    whole = records is None or records.is_whole
    count = records.records if records is not None and records.is_whole else readable
    oldest_ms = first_ms if records is None or records.oldest_ms is None else records.oldest_ms
    return PartitionLag(
        topic=place[0],
        partition=place[1],
        committed=committed,
        start=log.start,
        end=log.end,
        messages=log.end - at if at > log.end else count + open_txn,
        open_txn=open_txn,
        lost=0 if committed is None else max(0, log.start - committed),
        seconds=0.0 if oldest_ms is None else max(0.0, (now_ms - oldest_ms) / 1000),
        messages_at_most=not whole,
        seconds_at_least=not whole and not (records is not None and records.by_broker),
    )


def _nothing_shown(config: KafkaConfig) -> BrokerError:
    user = config.options.get("sasl.username", "the anonymous user")
    return BrokerError(
        f"{config.bootstrap} shows no consumer group to {user}, who may not see all of them",
        hint="give that user DESCRIBE on the cluster, or on its groups and topics",
    )
