"""Prefetch: whole record batches from aiokafka's fetcher, without an object for each record.

aiokafka makes two Python objects of each record, one by one through three generators, which takes
as much CPU as all later work on the records. `FetchedBytes` retains the bytes of an answer.
`WholeBatches` replaces the dictionary in which aiokafka's fetcher stores its results: results of
chosen topics hand out decompressed record batches (`record_batches.py`), and the next answer is
fetched while one is handed out. aiokafka still checks checksums and transactions, and parses record
batches from before Kafka 0.11.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from weakref import ref

import aiokafka.consumer.fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from tidemill.streams.consumer.record_batches import HEADER, RecordBatch
from tidemill.streams.consumer.records import FetchedRecord
from tidemill.streams.consumer.turns import Turns

PREFETCH_PARTITIONS = 16  # a megabyte each; with more partitions there is always other work
_MAGIC, _MAGIC_AT = 2, 16
_OFFSET_AND_LENGTH = struct.Struct(">qi")
_CONTROL = 0x20
_LEAST_SIZE = 26  # of a message without key and value from before Kafka 0.11


class FetchedBytes:
    """The bytes of one partition in an answer, with the interface of aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        records = MemoryRecords(data)
        self.has_next = records.has_next
        self.next_batch = records.next_batch
        self.size_in_bytes = records.size_in_bytes


def retain_bytes() -> None:
    """Make every fetcher of this process retain the bytes of its answers, in `FetchedBytes`."""
    aiokafka.consumer.fetcher.MemoryRecords = FetchedBytes


class FetchedRecords(list[RecordBatch | FetchedRecord]):
    """Record batches and records of one partition, from offset *start* to before *next*.

    Control batches and gaps left by compaction are between the two. So the next fetched records
    start where these end, unless something was dropped on the way.
    """

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = self.next = start
        self.record_count = 0

    def add(self, part: RecordBatch | list[FetchedRecord]) -> None:
        """Append one record batch, or the single records of one."""
        if not isinstance(part, RecordBatch):
            self += part
            self.record_count += len(part)
        elif part.count:
            self.append(part)
            self.record_count += part.count


class WholeBatches(dict[TopicPartition, Any]):
    """Fetch results by partition; those of chosen topics hand out whole record batches.

    For about `PREFETCH_PARTITIONS` partitions at a time, the next answer is fetched while one is
    handed out. Otherwise each partition would wait for the broker after each answer, and others
    with it, because aiokafka requests them together. So aiokafka's position of such a partition is
    behind what was fetched, and `position` is behind what was handed out. Before a seek, call
    `forget` in the thread of the fetcher.
    """

    def __init__(
        self, is_chosen: Callable[[str], bool], at_least: int, turns: Turns | None = None
    ) -> None:
        """Hand out at least *at_least* records at a time from topics that *is_chosen* selects.

        *turns* are told how much the answers bring.
        """
        super().__init__()
        self._turns = turns or Turns()
        self._is_chosen = is_chosen
        self._at_least = at_least
        self._following: dict[TopicPartition, Any] = {}
        self._control: dict[TopicPartition, tuple[int, int]] = {}  # not followed by a record yet
        self._records_end: dict[TopicPartition, int] = {}

    def __contains__(self, tp: object) -> bool:
        """Return whether *tp* has enough results: aiokafka asks this before it fetches more.

        So a partition may have a result and not be `in` here.
        """
        first = self.get(tp)
        is_full = tp in self._following or len(self._following) >= PREFETCH_PARTITIONS
        return first is not None and (is_full or not hasattr(first, "read_to"))

    def __setitem__(self, tp: TopicPartition, result: Any) -> None:  # noqa: ANN401 (or an error)
        is_whole = isinstance(result, FetchResult) and self._is_chosen(tp.topic)
        if is_whole:
            last, end = ends(result._partition_records)
            self._turns.note_answer(tp, result._partition_records._records.size_in_bytes())
            result.read_to = result._partition_records.next_fetch_offset
            result.getall = self._getall_whole(tp, result, last, end)
        if self.get(tp) is None:
            super().__setitem__(tp, result)
        else:
            self._following[tp] = result
        if is_whole:  # last: else another thread could take it for handed out
            result._assignment.state_value(tp).consumed_to(end)

    def __delitem__(self, tp: TopicPartition) -> None:
        following = self._following.pop(tp, None)
        if following is None:
            super().__delitem__(tp)
        else:
            super().__setitem__(tp, following)

    def clear(self) -> None:
        """Drop everything, when the assignment is lost."""
        super().clear()
        for each in (self._following, self._control, self._records_end):
            each.clear()

    def forget(self, tps: Iterable[TopicPartition]) -> None:
        """Drop what was fetched of *tps*, just before a seek."""
        for tp in tps:
            for each in (self, self._following, self._control, self._records_end):
                each.pop(tp, None)

    def position(self, tp: TopicPartition, fetched_to: int) -> int:
        """Return the offset behind what was handed out of *tp*, fetched up to *fetched_to*.

        Other threads may call this with an older *fetched_to*: records that have come since are
        among the results, or were handed out.
        """
        offset: int = getattr(self.get(tp), "read_to", fetched_to)
        return offset

    def records_end(self, tp: TopicPartition) -> int:
        """Return the offset behind the last record that was handed out of *tp*, 0 after a seek."""
        return self._records_end.get(tp, 0)

    def with_control_batches(self) -> list[TopicPartition]:
        """Return the partitions that have some; another thread may ask."""
        return list(self._control)

    def control_batches(self, tp: TopicPartition) -> tuple[int, int] | None:
        """Return the offsets, from and to, of control batches behind the records handed out."""
        return self._control.get(tp)

    def _getall_whole(
        self, tp: TopicPartition, result: FetchResult, last: int, end: int
    ) -> Callable[..., FetchedRecords]:
        """Return a `FetchResult.getall` that hands out record batches.

        Control batches from *last* to *end*, behind the last record, belong to the last of them. It
        has only a weak reference to the result: in a cycle of references a result, which has a
        megabyte, would stay until the garbage collector runs, minutes later.
        """
        fetched, owner = result._partition_records, ref(result)
        fetched._records_iterator = iter(())  # aiokafka's own iterator refers back to the result
        batches = record_batches(fetched)

        def getall(_max_records: int | None = None) -> FetchedRecords:
            result = owner()
            if result is None:
                raise ReferenceError("a fetch result was used after its end")
            if not result._assignment.active:
                result._partition_records = None
            if not result.has_more():
                return FetchedRecords(fetched.next_fetch_offset)
            at = fetched.next_fetch_offset
            start, control_end = self._control.pop(tp, (at, at))
            records = FetchedRecords(start if control_end == at else at)
            for part in batches:
                records.add(part)
                if records.record_count >= self._at_least and fetched.next_fetch_offset < last:
                    break
            else:
                if fetched.next_fetch_offset != end:  # the next answer begins there
                    raise CorruptRecordException(f"{tp} was not read to {end}")
                result._partition_records = None
            records.next = fetched.next_fetch_offset
            if records:
                self._records_end[tp] = records.next
            else:
                self._control[tp] = (records.start, records.next)
            result.read_to = records.next  # last: another thread that reads it finds the rest done
            return records

        return getall


def ends(fetched: PartitionRecords) -> tuple[int, int]:
    """Return the offsets behind the last batch of *fetched* with records, and behind all batches.

    It reads headers only and never fails; corrupt bytes raise an error when they are decoded.
    """
    data: bytes = fetched._records.data
    last: int = fetched.next_fetch_offset
    end, at = last, 0
    while at + _LEAST_SIZE <= len(data):
        begin, (base, length) = at, _OFFSET_AND_LENGTH.unpack_from(data, at)
        at += _OFFSET_AND_LENGTH.size + length
        if not begin + _LEAST_SIZE <= at <= len(data):
            break  # the last batch of an answer may be cut off
        attributes, delta = 0, 0  # none before Kafka 0.11, and the offset of the last record
        if data[begin + _MAGIC_AT] == _MAGIC and begin + HEADER.size <= at:
            attributes, delta = HEADER.unpack_from(data, begin)[5:7]
        end = base + delta + 1
        last = last if attributes & _CONTROL else end
    return last, end


def record_batches(fetched: PartitionRecords) -> Iterator[RecordBatch | list[FetchedRecord]]:
    """Yield each record batch, empty for control batches and aborted transactions.

    The offset of *fetched* advances past each batch as it is yielded.

    Raises:
        CorruptRecordException: a checksum is wrong.
    """
    records = fetched._records
    end = 0
    while records.has_next():
        batch = records.next_batch()
        begin = end
        _, length = _OFFSET_AND_LENGTH.unpack_from(records.data, begin)
        end = begin + _OFFSET_AND_LENGTH.size + length
        if fetched._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")
        part: RecordBatch | list[FetchedRecord] = []
        if not _is_aborted(fetched, batch) and not batch.is_control_batch:
            part = _part(batch, records.data[begin:end], fetched.next_fetch_offset)
        fetched.next_fetch_offset = batch.next_offset
        yield part


def _part(batch: Any, raw: bytes, position: int) -> RecordBatch | list[FetchedRecord]:  # noqa: ANN401
    """Return the records of *batch* from *position* on: whole if possible, else one by one."""
    is_whole = raw[_MAGIC_AT] == _MAGIC and batch.base_offset >= position
    whole = RecordBatch.of(raw) if is_whole else None
    return whole or [record for record in batch if record.offset >= position]


def _is_aborted(fetched: PartitionRecords, batch: Any) -> bool:  # noqa: ANN401 (of Cython)
    """Return whether *batch* is of an aborted transaction; *fetched* tracks which are aborted."""
    if fetched._isolation_level != READ_COMMITTED or batch.producer_id is None:
        return False
    fetched._consume_aborted_up_to(batch.base_offset)
    if batch.is_control_batch and fetched._contains_abort_marker(batch):
        fetched._aborted_producers.discard(batch.producer_id)
    return bool(batch.is_transactional and batch.producer_id in fetched._aborted_producers)
