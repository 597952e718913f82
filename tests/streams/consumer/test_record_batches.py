"""Record batches come to columns as aiokafka's own parser reads them, whatever is in them."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.streams import record_batches
from tests.streams.record_batches import Sent, record_batch, sent

from tidemill.streams.consumer.record_batches import RecordBatch, records_of
from tidemill.streams.consumer.records import FetchedRecord, Records

Row = tuple[int, int, bytes | None, bytes | None]


def chunk(raw: bytes) -> RecordBatch:
    """Return the chunk of *raw*."""
    found = RecordBatch.of(raw)
    assert found is not None
    return found


def rows(records: Records) -> list[Row]:
    """Return offset, time, key and value of each record."""
    columns = (records.offsets.tolist(), records.timestamps_ms.tolist())
    return list(zip(*columns, records.keys, records.values, strict=True))


def parsed(raws: Sequence[bytes]) -> list[Row]:
    """Return the same, as aiokafka's parser has it."""
    found: list[FetchedRecord] = [each for raw in raws for each in DefaultRecordBatch(raw)]
    return [(each.offset, each.timestamp, each.key, each.value) for each in found]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(sent(), st.sampled_from(range(5)), st.none() | st.integers(0, 2**41)),
        min_size=1,
        max_size=4,
    )
)
def test_chunks_are_read_as_aiokafka_reads_them(
    batches: list[tuple[list[Sent], int, int | None]],
) -> None:
    """The fast way must not be another way: gaps, nulls, headers, codecs, both kinds of time."""
    raws = []
    base = 0
    for records, codec, appended_ms in batches:
        moved = [each._replace(offset=each.offset + base) for each in records]
        raws.append(record_batch(base, moved, codec=codec, appended_ms=appended_ms))
        base = moved[-1].offset + 1
    chunks = [chunk(raw) for raw in raws]
    assert rows(records_of(chunks)) == parsed(raws)
    assert [row for each in chunks for row in rows(Records.of(list(each.records())))] == parsed(
        raws
    )
    assert sum(each.count for each in chunks) == len(parsed(raws))


PLAIN = [Sent(number, 10 + number, b"key", b"value %d" % number) for number in range(3)]


def test_the_fast_way_is_taken() -> None:
    """Else the test above would compare aiokafka with itself."""
    records = records_of([chunk(record_batch(0, PLAIN, codec=3))])
    assert records.values.data is records.keys.data, "no bytes were copied record by record"


def test_a_legal_but_odd_form_is_read_by_aiokafka() -> None:
    """A length may be written with a byte too many: nobody does, but it is legal."""
    raw = bytearray(record_batch(0, PLAIN))
    length = raw[61]
    assert length < 0x80
    raw[61:62] = bytes((length | 0x80, 0))
    odd = record_batches.with_checksum(raw)
    records = records_of([chunk(odd)])
    assert (
        rows(records) == parsed([odd]) == [(n, 10 + n, b"key", b"value %d" % n) for n in range(3)]
    )


@pytest.mark.parametrize("cut", [1, 5, 14, 20])
def test_what_is_no_record_is_corrupt(cut: int) -> None:
    """A checksum says that bytes are as they came, not that they are right."""
    raw = record_batch(0, PLAIN)
    with pytest.raises(CorruptRecordException):
        records_of([chunk(raw), chunk(raw[:-cut])])
    with pytest.raises(CorruptRecordException):
        records_of([chunk(raw + bytes(cut))])


def test_a_record_that_reaches_into_the_next_batch_is_corrupt() -> None:
    """Batches lie side by side in memory, so their borders have to be looked at."""
    first, second = (bytearray(record_batch(0, PLAIN[:1])) for _ in range(2))
    first[61] += 2
    with pytest.raises(CorruptRecordException):
        records_of([chunk(bytes(first)), chunk(bytes(second))])


def test_an_unknown_codec_is_left_to_aiokafka() -> None:
    """It knows what to say."""
    raw = bytearray(record_batch(0, PLAIN))
    struct.pack_into(">h", raw, record_batches.ATTRIBUTES_AT, 7)
    assert RecordBatch.of(bytes(raw)) is None


def test_a_value_that_looks_like_records_stays_a_value() -> None:
    """Borders come from lengths alone, never from what a payload looks like."""
    inner = record_batch(0, PLAIN)[61:]
    records = records_of([chunk(record_batch(0, [Sent(0, 1, inner, inner), *PLAIN[1:]]))])
    assert records.values[0] == records.keys[0] == inner
    assert np.array_equal(records.offsets, [0, 1, 2])
