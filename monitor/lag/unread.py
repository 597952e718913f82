"""Reads the unread records of partitions, where READ is granted, to tell what offsets cannot.

Some offsets are no records: markers of transactions, records of aborted ones, what compaction
removed. And only the records tell which is the oldest where producers set the time.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, Message, TopicPartition

from tidemill.kafka import KafkaConfig, client_log
from tidemill.monitor.lag.group_offsets import PartitionId

MOST_RECORDS = 10_000  # a lag of so many records is read; of a longer one, the first of them
_CONSUME = 1_000
_ROUND_S = 0.1


@dataclass(slots=True, kw_only=True)
class UnreadRecords:
    """What was found in a range of offsets.

    Attributes:
        end: the offset after the last one of the range.
        is_long: there are more than `MOST_RECORDS` offsets in it.
        records: how many records were read.
        oldest_ms: the least of their times; None without a record.
        by_broker: the broker sets the times, so that the first record is the oldest.
        is_whole: the range was read to its end.
        is_refused: READ is not granted.
    """

    end: int
    is_long: bool
    records: int = 0
    oldest_ms: int | None = None
    by_broker: bool = False
    is_whole: bool = False
    is_refused: bool = False

    def take(self, message: Message) -> bool:
        """Count *message*; return whether no more has to be read."""
        error, offset = message.error(), message.offset()
        if error is not None:
            self.is_whole = error.code() == KafkaError._PARTITION_EOF
            self.is_refused = error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
            return True
        if offset is None or offset >= self.end:
            self.is_whole = True
            return True
        kind, at_ms = message.timestamp()
        self.by_broker = kind == TIMESTAMP_LOG_APPEND_TIME
        self.records += 1
        self.oldest_ms = at_ms if self.oldest_ms is None else min(self.oldest_ms, at_ms)
        self.is_whole = offset == self.end - 1
        enough = self.is_long and (self.by_broker or self.records >= MOST_RECORDS)
        return self.is_whole or enough


class UnreadReader:
    """Reads ranges of committed records, without a group, over one connection."""

    def __init__(self, config: KafkaConfig) -> None:
        settings = config.client(
            group_id="tidemill-lag",  # required by the client, never used
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_wait_max_ms=50,
            max_partition_fetch_bytes=65_536,
            queued_max_messages_kbytes=4_096,
        )
        self._consumer = Consumer(settings, logger=client_log)

    def read(
        self, ranges: Mapping[PartitionId, tuple[int, int]], *, within_s: float
    ) -> dict[PartitionId, UnreadRecords]:
        """Return what there is from the first offset of each range to before its second.

        After *within_s* the ranges that are not read yet are left as they are.
        """
        found = {
            place: UnreadRecords(end=end, is_long=end - first > MOST_RECORDS)
            for place, (first, end) in ranges.items()
        }
        left = {place: TopicPartition(*place, first) for place, (first, _) in ranges.items()}
        deadline = time.monotonic() + within_s
        self._consumer.assign(list(left.values()))
        try:
            while left and time.monotonic() < deadline:
                for message in self._consumer.consume(_CONSUME, timeout=_ROUND_S):
                    place = (message.topic() or "", message.partition() or 0)
                    if place in left and found[place].take(message):
                        self._consumer.incremental_unassign([left.pop(place)])
        finally:
            self._consumer.unassign()
        return found
