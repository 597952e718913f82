"""Asks the brokers for groups, their offsets and members, and the offsets of logs: DESCRIBE only.

librdkafka may abort the process meanwhile: see `lag_reader.py`.
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
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._listoffsets import OffsetSpec

from tidemill.kafka import KafkaConfig, client_log
from tidemill.monitor.lag.record_times import Found, record_times

T = TypeVar("T")
PartitionId = tuple[str, int]  # topic, partition
Unread = tuple[PartitionId, int]  # and the offset of its first unread record
EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
NEWEST: OffsetSpec = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a group, and their partitions, which may have no committed offset yet."""

    count: int
    unread: Mapping[PartitionId, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBounds:
    """The offsets that a partition holds: from *start*, below *end*.

    Readers of committed records get those below *stable*; the rest waits for a transaction.
    """

    start: int
    stable: int
    end: int

    def next_of(self, committed: int | None) -> int:
        """Return the offset a group reads next: that of its commit, unless it was deleted."""
        return self.start if committed is None else max(committed, self.start)


class GroupOffsets:
    """The questions that an operator's user may ask; each is answered within *timeout_s*.

    Its methods raise what confluent_kafka does: `KafkaException` or `TimeoutError`.
    """

    def __init__(self, config: KafkaConfig, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.client = AdminClient(config.client(), logger=client_log)

    def groups(self) -> list[str]:
        """Return the names of the groups that this user may see."""
        found = self._result(self.client.list_consumer_groups(request_timeout=self._timeout_s))
        for error in found.errors or ():  # of one broker: its groups are missing, not healthy
            raise KafkaException(error)
        return sorted(listing.group_id for listing in found.valid or ())

    def sees_all(self) -> bool:
        """Return whether this user may see every group: DESCRIBE on the cluster says so."""
        asked = self.client.describe_cluster(
            include_authorized_operations=True, request_timeout=self._timeout_s
        )
        return AclOperation.DESCRIBE in (self._result(asked).authorized_operations or ())

    def committed(self, groups: Sequence[str]) -> dict[str, dict[PartitionId, int]]:
        """Return the next offset of each partition that each group has committed."""
        asked = {  # one request can name one group
            group: self.client.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group)], request_timeout=self._timeout_s
            )[group]
            for group in groups
        }
        return {
            group: {
                (place.topic, place.partition): place.offset
                for place in self._result(answer).topic_partitions
                if place.offset >= 0
            }
            for group, answer in asked.items()
        }

    def members(self, groups: Sequence[str]) -> dict[str, Members]:
        """Return the members of each group."""
        if not groups:
            return {}
        answer = self.client.describe_consumer_groups(list(groups), request_timeout=self._timeout_s)
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

    def bounds(self, places: set[PartitionId]) -> dict[PartitionId, LogBounds]:
        """Return the bounds of each of *places* that still exists.

        Starts are read first and stable ends last: no figure is below 0, and no transaction seems
        open that was not.
        """
        starts = self.find(dict.fromkeys(places, EARLIEST))
        ends = self.find(dict.fromkeys(starts, LATEST), IsolationLevel.READ_UNCOMMITTED)
        stable = self.find(dict.fromkeys(ends, LATEST))
        return {
            place: LogBounds(
                start=starts[place].offset,
                stable=at.offset,
                end=max(at.offset, ends[place].offset),
            )
            for place, at in stable.items()
        }

    def find(
        self,
        asked: Mapping[PartitionId, OffsetSpec],
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> dict[PartitionId, Found]:
        """Return the offset that is asked for in each partition that still exists."""
        if not asked:
            return {}
        answers = self.client.list_offsets(
            {TopicPartition(*place): spec for place, spec in asked.items()},
            isolation_level=isolation,
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

    def times(self, unread: set[Unread]) -> dict[Unread, int]:
        """Return the timestamp in ms of the record at each place and offset; see `record_times`."""
        newest = self.find({place: NEWEST for place, _ in unread})
        later_ms = int(time.time() * 1000) + _DAY_MS  # if the newest is in an open transaction
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
            found = self.find(
                {place: OffsetSpec.for_timestamp(times[key]) for place, key in request.items()}
            )
            for place, key in request.items():
                answer = found.get(place)
                answers[key] = None if answer is None or answer.offset < 0 else answer
        return answers

    def _result(self, future: Future[T]) -> T:
        return future.result(timeout=self._timeout_s + 1)
