"""The lag of a consumer group, in messages and in exact seconds.

Reading it takes only DESCRIBE on groups and topics. The order of the requests matters: group
offsets first, then log starts, then log ends, so that no figure is negative.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, broker_errors, client_log
from tidemill.monitor.record_times import Found, record_times

T = TypeVar("T")
PartitionId = tuple[str, int]  # topic, partition
Unread = tuple[PartitionId, int]  # and the offset of its first unread record
EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
NEWEST: OffsetSpec = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """The lag of one group in one partition.

    *messages* counts from the committed offset or, if the log starts later, from its start; *lost*
    counts records that were deleted unread. *seconds* is the age of the first unread record, or 0.
    A group without a committed offset counts as reading from the start.
    """

    topic: str
    partition: int
    committed: int | None
    start: int
    end: int
    messages: int
    lost: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLag:
    """The lag of one group; without *members* nobody reads, and the lag grows."""

    group: str
    members: int
    partitions: tuple[PartitionLag, ...]

    @property
    def messages(self) -> int:
        """How many records are unread."""
        return sum(partition.messages for partition in self.partitions)

    @property
    def lost(self) -> int:
        """How many records were deleted before they were read."""
        return sum(partition.lost for partition in self.partitions)

    @property
    def seconds(self) -> float:
        """The age of the oldest unread record, in seconds."""
        return max((partition.seconds for partition in self.partitions), default=0.0)

    def over(self, *, messages: int | None = None, seconds: float | None = None) -> bool:
        """Return whether any partition exceeds a limit; None is no limit."""
        return any(
            (messages is not None and partition.messages > messages)
            or (seconds is not None and partition.seconds > seconds)
            for partition in self.partitions
        )


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a group, and their partitions, which may have no committed offset yet."""

    count: int
    unread: Mapping[PartitionId, None]


@dataclass(frozen=True, slots=True)
class LogBounds:
    """The offsets that a partition holds: from *start*, below *end*."""

    start: int
    end: int

    def next_of(self, committed: int | None) -> int:
        """Return the offset a group reads next: that of its commit, unless it was deleted."""
        return self.start if committed is None else max(committed, self.start)


class LagReader:
    """Reads the lag from one cluster; it keeps its connections for repeated readings."""

    def __init__(self, config: KafkaConfig, *, timeout_s: float = 20.0) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._admin = AdminClient(config.client(), logger=client_log)

    def read(self, group: str | None = None) -> list[GroupLag]:
        """Return the lag of *group*, or of every group that has offsets or members.

        Raises:
            BrokerError: no answer in time, a missing permission, or no such group.
        """
        self._admin.poll(0)  # passes on what the client has logged meanwhile
        with broker_errors(self._config, "the lag could not be read", self._admin):
            names = self._groups() if group is None else [group]
            committed = {name: self._committed(name) for name in names}
            members = self._members(names)
            lags = self._lags({name: {**members[name].unread, **committed[name]} for name in names})
        found = [
            GroupLag(group=name, members=members[name].count, partitions=tuple(lags[name]))
            for name in names
            if lags[name] or members[name].count
        ]
        if group is not None and not found:
            raise BrokerError(
                f"there is no consumer group {group} at {self._config.bootstrap}",
                hint="`tidemill lag` without a name lists all groups",
            )
        return found

    def newest_ms(self, partitions: Mapping[str, int]) -> dict[str, int | None]:
        """Return the time of the newest record of each topic, in ms of the broker; None if empty.

        Args:
            partitions: how many partitions each topic has.

        Raises:
            BrokerError: no answer in time.
        """
        places = {(topic, number) for topic, count in partitions.items() for number in range(count)}
        with broker_errors(self._config, "the ends of the logs could not be read", self._admin):
            found = self._ask(dict.fromkeys(places, NEWEST))
        newest: dict[str, int | None] = dict.fromkeys(partitions)
        for (topic, _), answer in found.items():
            if answer.timestamp_ms >= 0:
                newest[topic] = max(answer.timestamp_ms, newest[topic] or 0)
        return newest

    def _lags(
        self, committed: Mapping[str, Mapping[PartitionId, int | None]]
    ) -> dict[str, list[PartitionLag]]:
        places = {place for offsets in committed.values() for place in offsets}
        starts = self._offsets(places, EARLIEST)
        ends = self._offsets(set(starts), LATEST)
        logs = {place: LogBounds(starts[place], end) for place, end in ends.items()}
        unread = {
            (place, at)
            for offsets in committed.values()
            for place, offset in offsets.items()
            if place in logs and (at := logs[place].next_of(offset)) < logs[place].end
        }
        times = self._times(unread)
        now_ms = time.time() * 1000
        return {
            name: [
                _partition_lag(place, offset, logs[place], times, now_ms)
                for place, offset in sorted(offsets.items(), key=lambda item: item[0])
                if place in logs
            ]
            for name, offsets in committed.items()
        }

    def _groups(self) -> list[str]:
        found = self._result(self._admin.list_consumer_groups(request_timeout=self._timeout_s))
        for error in found.errors or ():  # of one broker: its groups are missing, not healthy
            raise KafkaException(error)
        return sorted(listing.group_id for listing in found.valid or ())

    def _committed(self, group: str) -> dict[PartitionId, int]:
        request = [ConsumerGroupTopicPartitions(group)]
        answer = self._admin.list_consumer_group_offsets(request, request_timeout=self._timeout_s)
        places = self._result(answer[group]).topic_partitions
        return {(p.topic, p.partition): p.offset for p in places if p.offset >= 0}

    def _members(self, groups: Sequence[str]) -> dict[str, "Members"]:
        if not groups:
            return {}
        answer = self._admin.describe_consumer_groups(list(groups), request_timeout=self._timeout_s)
        found = {}
        for group, future in answer.items():
            members = self._result(future).members
            places = {
                (place.topic, place.partition): None
                for member in members
                if member.assignment is not None
                for place in member.assignment.topic_partitions
            }
            found[group] = Members(len(members), places)
        return found

    def _offsets(self, places: set[PartitionId], spec: OffsetSpec) -> dict[PartitionId, int]:
        """Return the offset that *spec* names in each of *places* that still exists."""
        found = self._ask(dict.fromkeys(places, spec))
        return {place: answer.offset for place, answer in found.items()}

    def _ask(self, asked: Mapping[PartitionId, OffsetSpec]) -> dict[PartitionId, Found]:
        if not asked:
            return {}
        answers = self._admin.list_offsets(
            {TopicPartition(*place): spec for place, spec in asked.items()},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=self._timeout_s,
        )
        found = {}
        for place, future in answers.items():
            try:
                answer = self._result(future)
            except KafkaException as error:
                if error.args[0].code() in _GONE:
                    continue
                raise
            found[place.topic, place.partition] = Found(answer.offset, answer.timestamp)
        return found

    def _times(self, unread: set[Unread]) -> dict[Unread, int]:
        """Return the timestamp in ms of the record at each place and offset."""
        newest = self._ask({place: NEWEST for place, _ in unread})
        later_ms = int(time.time() * 1000) + 86_400_000  # if the newest is in an open transaction
        limits = {
            key: found if found.timestamp_ms >= 0 else Found(key[1], later_ms)
            for key in unread
            if (found := newest.get(key[0])) is not None
        }
        return record_times(self._first_at, {key: key[1] for key in limits}, limits)

    def _first_at(self, times: Mapping[Unread, int]) -> dict[Unread, Found | None]:
        """Return the first record at or after each time, one time per partition and request."""
        answers: dict[Unread, Found | None] = {}
        while left := times.keys() - answers.keys():
            request = {place: (place, offset) for place, offset in left}
            found = self._ask(
                {place: OffsetSpec.for_timestamp(times[key]) for place, key in request.items()}
            )
            for place, key in request.items():
                answer = found.get(place)
                answers[key] = None if answer is None or answer.offset < 0 else answer
        return answers

    def _result(self, future: Future[T]) -> T:
        return future.result(timeout=self._timeout_s + 5)


def _partition_lag(
    place: PartitionId,
    committed: int | None,
    log: LogBounds,
    times: Mapping[Unread, int],
    now_ms: float,
) -> PartitionLag:
    at = log.next_of(committed)
    since_ms = times.get((place, at))
    return PartitionLag(
        topic=place[0],
        partition=place[1],
        committed=committed,
        start=log.start,
        end=log.end,
        messages=max(0, log.end - at),
        lost=0 if committed is None else max(0, log.start - committed),
        seconds=0.0 if since_ms is None else max(0.0, (now_ms - since_ms) / 1000),
    )
