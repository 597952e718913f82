"""Record batches are read to the same columns as by aiokafka's own parser."""

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


def batch(raw: bytes) -> RecordBatch:
    """Return the record batch *raw*, unpacked."""
    unpacked = RecordBatch.of(raw)
    assert unpacked is not None
    return unpacked


def rows(records: Records) -> list[Row]:
    """Return offset, time, key and value of each record."""
    columns = (records.offsets.tolist(), records.timestamps_ms.tolist())
    return list(zip(*columns, records.keys, records.values, strict=True))


def parsed(raws: Sequence[bytes]) -> list[Row]:
    """Return the same, read by aiokafka's parser."""
    records: list[FetchedRecord] = [each for raw in raws for each in DefaultRecordBatch(raw)]
    return [(each.offset, each.timestamp, each.key, each.value) for each in records]


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(sent(), st.sampled_from(range(5)), st.none() | st.integers(0, 2**41)),
        min_size=1,
        max_size=4,
    )
)
def test_record_batches_are_read_as_aiokafka_reads_them(
    batches: list[tuple[list[Sent], int, int | None]],
) -> None:
    """Fast or not, the result is the same: gaps, nulls, headers, codecs, both kinds of time."""
    raws = []
    base = 0
    for records, codec, appended_ms in batches:
        moved = [each._replace(offset=each.offset + base) for each in records]
        raws.append(record_batch(base, moved, codec=codec, appended_ms=appended_ms))
        base = moved[-1].offset + 1
    unpacked = [batch(raw) for raw in raws]
    assert rows(records_of(unpacked)) == parsed(raws)
    assert [row for each in unpacked for row in rows(Records.of(list(each.records())))] == parsed(
        raws
    )
    assert sum(each.count for each in unpacked) == len(parsed(raws))


PLAIN = [Sent(number, 10 + number, b"key", b"value %d" % number) for number in range(3)]


def test_the_columnar_decoder_is_used() -> None:
    """Otherwise the test above would compare aiokafka with itself."""
    records = records_of([batch(record_batch(0, PLAIN, codec=3))])
    assert records.values.data is records.keys.data, "no bytes were copied record by record"


def test_a_legal_but_odd_form_is_read_by_aiokafka() -> None:
    """A length may be written with an extra byte: no producer does it, but it is legal."""
    raw = bytearray(record_batch(0, PLAIN))
    length = raw[61]
    assert length < 0x80
    raw[61:62] = bytes((length | 0x80, 0))
    odd = record_batches.with_checksum(raw)
    records = records_of([batch(odd)])
    assert (
        rows(records) == parsed([odd]) == [(n, 10 + n, b"key", b"value %d" % n) for n in range(3)]
    )


@pytest.mark.parametrize("cut", [1, 5, 14, 20])
def test_bytes_that_are_no_record_are_corrupt(cut: int) -> None:
    """A checksum proves that bytes arrived as they were sent, not that they are valid."""
    raw = record_batch(0, PLAIN)
    with pytest.raises(CorruptRecordException):
        records_of([batch(raw), batch(raw[:-cut])])
    with pytest.raises(CorruptRecordException):
        records_of([batch(raw + bytes(cut))])


def test_a_record_that_reaches_into_the_next_batch_is_corrupt() -> None:
    """Batches are adjacent in memory, so their borders have to be checked."""
    first, second = (bytearray(record_batch(0, PLAIN[:1])) for _ in range(2))
    first[61] += 2
    with pytest.raises(CorruptRecordException):
        records_of([batch(bytes(first)), batch(bytes(second))])


def test_an_unknown_codec_is_left_to_aiokafka() -> None:
    """Its error names the codec."""
    raw = bytearray(record_batch(0, PLAIN))
    struct.pack_into(">h", raw, record_batches.ATTRIBUTES_AT, 7)
    assert RecordBatch.of(bytes(raw)) is None


def test_a_value_that_looks_like_records_stays_a_value() -> None:
    """Borders come from lengths alone, never from the bytes of a payload."""
    inner = record_batch(0, PLAIN)[61:]
    records = records_of([batch(record_batch(0, [Sent(0, 1, inner, inner), *PLAIN[1:]]))])
    assert records.values[0] == records.keys[0] == inner
    assert np.array_equal(records.offsets, [0, 1, 2])
