"""What aiokafka has fetched, a whole record batch at a time, without an object for each record.

aiokafka makes two Python objects of each record, one by one through three generators: as much CPU
as all that is done with the records later. `FetchedBytes` keeps the bytes of an answer within
reach, and `WholeBatches` stands in for the dictionary aiokafka's fetcher puts results in: results
of chosen topics then hand out record batches unpacked (`chunks.py`). Checksums and transactions
stay aiokafka's business, and so do record batches of before Kafka 0.11. It knows no Faust.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import aiokafka.consumer.fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from tidemill.streams.chunks import Chunk
from tidemill.streams.records import FetchedRecord

_MAGIC, _MAGIC_AT = 2, 16
_OFFSET_AND_LENGTH = struct.Struct(">qi")


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


class Run(list[Chunk | FetchedRecord]):
    """Chunks and records of one partition, from position *start* to before *next*.

    Marks of transactions and holes that compaction left are between the two, so the next run starts
    where this one ends, unless something was dropped on the way.
    """

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = self.next = start
        self.held = 0

    def add(self, part: Chunk | list[FetchedRecord]) -> None:
        """Add the records of one record batch."""
        if not isinstance(part, Chunk):
            self += part
            self.held += len(part)
        elif part.count:
            self.append(part)
            self.held += part.count


class WholeBatches(dict[TopicPartition, Any]):
    """Fetch results by partition; those of chosen topics give whole record batches."""

    def __init__(self, is_chosen: Callable[[str], bool], at_least: int) -> None:
        """Let topics for which *is_chosen* holds give about *at_least* records at a time."""
        super().__init__()
        self._is_chosen = is_chosen
        self._at_least = at_least
        self._starts: dict[TopicPartition, int] = {}  # before marks that no record has followed yet

    def __setitem__(self, place: TopicPartition, result: object) -> None:
        if isinstance(result, FetchResult) and self._is_chosen(place.topic):
            result.getall = self._whole(place, result)
        super().__setitem__(place, result)

    def marks(self, place: TopicPartition) -> int | None:
        """Return the position before the marks that end what was fetched of *place*, if any do."""
        return self._starts.get(place)

    def forget(self) -> None:
        """Start anew, after a seek."""
        self._starts.clear()

    def _whole(self, place: TopicPartition, result: FetchResult) -> Callable[..., Run]:
        """Return what takes the place of `FetchResult.getall`: the same, but by record batches.

        It does not keep the result alive, nor does the result itself: what only the garbage
        collector finds stays for minutes, and each result has a megabyte.
        """
        fetched, owner = result._partition_records, ref(result)
        fetched._records_iterator = iter(())  # aiokafka's own way, which refers back to its owner
        batches = record_batches(fetched)

        def getall(_max_records: int | None = None) -> Run:
            result = owner()
            if result is None:
                raise ReferenceError("a fetch result was asked after its end")
            if not result.check_assignment(result._topic_partition) or not result.has_more():
                return Run(fetched.next_fetch_offset)
            run = Run(self._starts.pop(place, fetched.next_fetch_offset))
            for part in batches:
                run.add(part)
                if run.held >= self._at_least:
                    break
            else:
                result._partition_records = None
            result._assignment.state_value(place).consumed_to(fetched.next_fetch_offset)
            run.next = fetched.next_fetch_offset
            if not run:
                self._starts[place] = run.start
            return run

        return getall


def record_batches(fetched: PartitionRecords) -> Iterator[Chunk | list[FetchedRecord]]:
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
        part: Chunk | list[FetchedRecord] = []
        if not _never_happened(fetched, batch) and not batch.is_control_batch:
            part = _part(batch, records.data[begin:end], fetched.next_fetch_offset)
        fetched.next_fetch_offset = batch.next_offset
        yield part


def _part(batch: Any, raw: bytes, position: int) -> Chunk | list[FetchedRecord]:  # noqa: ANN401
    """Return what *batch* holds from *position* on: whole if it can be, else record by record."""
    is_whole = raw[_MAGIC_AT] == _MAGIC and batch.base_offset >= position
    chunk = Chunk.of(raw) if is_whole else None
    return chunk or [record for record in batch if record.offset >= position]


def _never_happened(fetched: PartitionRecords, batch: Any) -> bool:  # noqa: ANN401 (of Cython)
    """Whether *batch* belongs to an aborted transaction; the marks are kept count of."""
    if fetched._isolation_level != READ_COMMITTED or batch.producer_id is None:
        return False
    fetched._consume_aborted_up_to(batch.base_offset)
    if batch.is_control_batch and fetched._contains_abort_marker(batch):
        fetched._aborted_producers.discard(batch.producer_id)
    return bool(batch.is_transactional and batch.producer_id in fetched._aborted_producers)
