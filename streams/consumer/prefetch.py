"""What aiokafka has fetched, a whole record batch at a time, without an object for each record.

aiokafka makes two Python objects of each record, one by one through three generators: as much CPU
as all that is done with the records later. `FetchedBytes` keeps the bytes of an answer within
reach, and `WholeBatches` stands in for the dictionary aiokafka's fetcher puts results in: results
of chosen topics then hand out record batches unpacked (`record_batches.py`), and the next answer is
fetched while one is handed out. Checksums and transactions stay aiokafka's business, and so do
record batches of before Kafka 0.11. It knows no Faust.
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

AHEAD = 16  # partitions, of a megabyte each; who has more of them finds work in the others
_MAGIC, _MAGIC_AT = 2, 16
_OFFSET_AND_LENGTH = struct.Struct(">qi")
_CONTROL = 0x20
_LEAST_SIZE = 26  # of a message of before Kafka 0.11 without key and value


class FetchedBytes:
    """The bytes of one partition in an answer, and aiokafka's way to go through them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        records = MemoryRecords(data)
        self.has_next = records.has_next
        self.next_batch = records.next_batch
        self.size_in_bytes = records.size_in_bytes


def keep_bytes() -> None:
    """Let every fetcher of this process keep the bytes of its answers, in `FetchedBytes`."""
    aiokafka.consumer.fetcher.MemoryRecords = FetchedBytes


class FetchedRecords(list[RecordBatch | FetchedRecord]):
    """Chunks and records of one partition, from position *start* to before *next*.

    Marks of transactions and gaps that compaction left are between the two, so the next run starts
    where this one ends, unless something was dropped on the way.
    """

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = self.next = start
        self.held = 0

    def add(self, part: RecordBatch | list[FetchedRecord]) -> None:
        """Add the records of one record batch."""
        if not isinstance(part, RecordBatch):
            self += part
            self.held += len(part)
        elif part.count:
            self.append(part)
            self.held += part.count


class WholeBatches(dict[TopicPartition, Any]):
    """Fetch results by partition; those of chosen topics give whole record batches.

    Of these, one more is fetched while one is handed out, of about `AHEAD` partitions at a time:
    else one waits for the broker after each answer, and others with it, for aiokafka asks for them
    together. So aiokafka's position of such a partition is the end of what was fetched, and
    `position` the end of what was handed out; whoever seeks says so to `forget`, in the thread of
    the fetcher.
    """

    def __init__(self, is_chosen: Callable[[str], bool], at_least: int) -> None:
        """Let topics for which *is_chosen* holds give about *at_least* records at a time."""
        super().__init__()
        self._is_chosen = is_chosen
        self._at_least = at_least
        self._following: dict[TopicPartition, Any] = {}
        self._control: dict[TopicPartition, tuple[int, int]] = {}  # that no record has followed yet
        self._ran_to: dict[TopicPartition, int] = {}

    def __contains__(self, place: object) -> bool:
        """Whether there is enough of *place*: what aiokafka wants to know before it asks for it.

        So a place may have something and not be `in` here.
        """
        first = self.get(place)
        is_full = place in self._following or len(self._following) >= AHEAD
        return first is not None and (is_full or not hasattr(first, "read_to"))

    def __setitem__(self, place: TopicPartition, result: Any) -> None:  # noqa: ANN401 (or an error)
        is_whole = isinstance(result, FetchResult) and self._is_chosen(place.topic)
        if is_whole:
            last, end = ends(result._partition_records)
            result.read_to = result._partition_records.next_fetch_offset
            result.getall = self._whole(place, result, last, end)
        if self.get(place) is None:
            super().__setitem__(place, result)
        else:
            self._following[place] = result
        if is_whole:  # last: who looks from another thread must not take it for handed out
            result._assignment.state_value(place).consumed_to(end)

    def __delitem__(self, place: TopicPartition) -> None:
        following = self._following.pop(place, None)
        if following is None:
            super().__delitem__(place)
        else:
            super().__setitem__(place, following)

    def clear(self) -> None:
        """Forget everything, when the assignment is lost."""
        super().clear()
        for each in (self._following, self._control, self._ran_to):
            each.clear()

    def forget(self, places: Iterable[TopicPartition]) -> None:
        """Forget what was fetched of *places*, just before a seek."""
        for place in places:
            for each in (self, self._following, self._control, self._ran_to):
                each.pop(place, None)

    def position(self, place: TopicPartition, fetched_to: int) -> int:
        """Return the offset behind what was handed out of *place*, fetched up to *fetched_to*.

        Other threads may ask too, with what *fetched_to* was a moment ago: what has come in since
        is here, or was handed out.
        """
        offset: int = getattr(self.get(place), "read_to", fetched_to)
        return offset

    def ran_to(self, place: TopicPartition) -> int:
        """Return the offset behind the last run with records that was handed out of *place*."""
        return self._ran_to.get(place, 0)

    def control_batches(self, place: TopicPartition) -> tuple[int, int] | None:
        """Return the offsets, from and to, of marks that end what was handed out, if any do."""
        return self._control.get(place)

    def _whole(
        self, place: TopicPartition, result: FetchResult, last: int, end: int
    ) -> Callable[..., FetchedRecords]:
        """Return what takes the place of `FetchResult.getall`: the same, but by record batches.

        Marks from *last* to *end*, behind the last record, go with it. It does not keep the result
        alive, nor does the result itself: what only the garbage collector finds stays for minutes,
        and each result has a megabyte.
        """
        fetched, owner = result._partition_records, ref(result)
        fetched._records_iterator = iter(())  # aiokafka's own way, which refers back to its owner
        batches = record_batches(fetched)

        def getall(_max_records: int | None = None) -> FetchedRecords:
            result = owner()
            if result is None:
                raise ReferenceError("a fetch result was asked after its end")
            if not result._assignment.active:
                result._partition_records = None
            if not result.has_more():
                return FetchedRecords(fetched.next_fetch_offset)
            at = fetched.next_fetch_offset
            start, control_end = self._control.pop(place, (at, at))
            run = FetchedRecords(start if control_end == at else at)
            for part in batches:
                run.add(part)
                if run.held >= self._at_least and fetched.next_fetch_offset < last:
                    break
            else:
                if fetched.next_fetch_offset != end:  # the next answer begins there
                    raise CorruptRecordException(f"{place} was not read to {end}")
                result._partition_records = None
            run.next = fetched.next_fetch_offset
            if run:
                self._ran_to[place] = run.next
            else:
                self._control[place] = (run.start, run.next)
            result.read_to = run.next  # last: who sees it in another thread sees what it is due to
            return run

        return getall


def ends(fetched: PartitionRecords) -> tuple[int, int]:
    """Return the offsets behind the last batch of *fetched* with records, and behind all of it.

    It looks at headers only and never fails: whoever reads them is told what is wrong with bytes.
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
    """Yield each record batch; marks, and records of aborted transactions, are left out.

    The position of *fetched* moves past each batch as it is yielded.

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
        if not _never_happened(fetched, batch) and not batch.is_control_batch:
            part = _part(batch, records.data[begin:end], fetched.next_fetch_offset)
        fetched.next_fetch_offset = batch.next_offset
        yield part


def _part(batch: Any, raw: bytes, position: int) -> RecordBatch | list[FetchedRecord]:  # noqa: ANN401
    """Return what *batch* holds from *position* on: whole if it can be, else record by record."""
    is_whole = raw[_MAGIC_AT] == _MAGIC and batch.base_offset >= position
    chunk = RecordBatch.of(raw) if is_whole else None
    return chunk or [record for record in batch if record.offset >= position]


def _never_happened(fetched: PartitionRecords, batch: Any) -> bool:  # noqa: ANN401 (of Cython)
    """Whether *batch* belongs to an aborted transaction; the marks are kept count of."""
    if fetched._isolation_level != READ_COMMITTED or batch.producer_id is None:
        return False
    fetched._consume_aborted_up_to(batch.base_offset)
    if batch.is_control_batch and fetched._contains_abort_marker(batch):
        fetched._aborted_producers.discard(batch.producer_id)
    return bool(batch.is_transactional and batch.producer_id in fetched._aborted_producers)
