"""Records as aiokafka's parser leaves them, a whole record batch at a time.

aiokafka makes one more Python object of each record, one by one through three generators: half of
all the CPU a worker would need. `WholeBatches` stands in for the dictionary its fetcher puts
results in, and lets results of chosen topics hand out lists instead. It knows no Faust.
"""

from collections.abc import Callable, Iterator
from typing import Any

from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.structs import TopicPartition


class Run(list[Any]):
    """Records of one partition; *start* is the position the consumer had before them.

    *next* is the position after them. Both show whether anything was dropped on the way: the next
    run starts where this one ends, holes that hold no record belong to the runs.
    """

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = self.next = start


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

    def _whole(self, place: TopicPartition, result: FetchResult) -> Callable[..., list[Any]]:
        """Return what takes the place of `FetchResult.getall`: the same, but by record batches."""
        fetched = result._partition_records
        batches = record_batches(fetched)

        def getall(_max_records: int | None = None) -> list[Any]:
            if not result.check_assignment(result._topic_partition) or not result.has_more():
                return []
            run = Run(self._starts.pop(place, fetched.next_fetch_offset))
            for batch in batches:
                run += batch
                if len(run) >= self._at_least:
                    break
            else:
                result._partition_records = None
            result._assignment.state_value(place).consumed_to(fetched.next_fetch_offset)
            run.next = fetched.next_fetch_offset
            if not run:
                self._starts[place] = run.start
            return run

        return getall


def record_batches(fetched: PartitionRecords) -> Iterator[list[Any]]:
    """Yield the records of each batch; marks, and records of aborted transactions, are left out.

    The position of *fetched* moves past each batch as it is yielded.

    Raises:
        CorruptRecordException: a checksum is wrong.
    """
    records = fetched._records
    while records.has_next():
        batch = records.next_batch()
        if fetched._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")
        found = [] if _never_happened(fetched, batch) or batch.is_control_batch else list(batch)
        if found and found[0].offset < fetched.next_fetch_offset:
            found = [record for record in found if record.offset >= fetched.next_fetch_offset]
        fetched.next_fetch_offset = batch.next_offset
        yield found


def _never_happened(fetched: PartitionRecords, batch: Any) -> bool:  # noqa: ANN401 (of Cython)
    """Whether *batch* belongs to an aborted transaction; the marks are kept count of."""
    if fetched._isolation_level != READ_COMMITTED or batch.producer_id is None:
        return False
    fetched._consume_aborted_up_to(batch.base_offset)
    if batch.is_control_batch and fetched._contains_abort_marker(batch):
        fetched._aborted_producers.discard(batch.producer_id)
    return bool(batch.is_transactional and batch.producer_id in fetched._aborted_producers)
