"""Record batches as Kafka stores them, decoded to columns without an object for each record.

A record is a length and that many bytes, which is what Avro calls `bytes`. So Polars' Avro reader
finds where records begin and end, and the cursors of `schemas/avro/columnar_decoder.py` read all of
them at once. Batches that the cursors cannot read go to aiokafka's own parser, which reads them or
raises the error.

Source: Apache Kafka, "Message Format", record batch and record of magic 2.
"""

import io
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiokafka.codec
import numpy as np
import polars as pl
from aiokafka.record.default_records import DefaultRecordBatch
from polars.exceptions import PanicException, PolarsError

from tidemill.schemas.avro.cursors import PADDING, Cursors, PayloadBytes
from tidemill.schemas.avro.payloads import NOWHERE, Payloads
from tidemill.schemas.avro.primitives import varint
from tidemill.streams.consumer.records import Records
from tidemill.streams.units import Int64s

HEADER = struct.Struct(">qiibIhiqqqhii")
_ATTRIBUTES = struct.Struct(">h")
_ATTRIBUTES_AT = 21
_CODEC, _APPEND_TIME = 0x07, 0x08
_DECODERS: Mapping[int, Callable[[bytes], bytes]] = {
    0: lambda data: data,
    1: aiokafka.codec.gzip_decode,
    2: aiokafka.codec.snappy_decode,
    3: aiokafka.codec.lz4_decode,
    4: aiokafka.codec.zstd_decode,
}
_SYNC = bytes(16)
_NO_BLOCK = bytes(2) + _SYNC  # a block without records: so the padding is valid Avro too
_TAIL = _SYNC + _NO_BLOCK * -(-PADDING // len(_NO_BLOCK))


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """One record batch of magic 2 with a valid checksum: its header, and its bytes decompressed."""

    header: bytes
    data: bytes
    offset: int  # the base offset; compaction may have removed its record
    count: int
    first_ms: int
    last_ms: int
    is_append_time: bool

    @classmethod
    def of(cls, raw: bytes) -> "RecordBatch | None":
        """Return the record batch *raw* decompressed; None if its codec is unknown."""
        header = raw[: HEADER.size]
        fields = HEADER.unpack(header)
        attributes = fields[5]
        decode = _DECODERS.get(attributes & _CODEC)
        if decode is None:
            return None
        return cls(
            header=header,
            data=decode(raw[HEADER.size :]),
            offset=fields[0],
            count=fields[12],
            first_ms=fields[7],
            last_ms=fields[8],
            is_append_time=bool(attributes & _APPEND_TIME),
        )

    @property
    def timestamp(self) -> int:
        """The latest time in it, in milliseconds since the epoch."""
        return self.last_ms

    @property
    def timestamp_type(self) -> int:
        """1 if its records have the broker's time, 0 if the producer's."""
        return int(self.is_append_time)

    def records(self) -> Iterator[Any]:
        """Yield its records as aiokafka parses them.

        Raises:
            CorruptRecordException: they do not agree with the header.
        """
        (attributes,) = _ATTRIBUTES.unpack_from(self.header, _ATTRIBUTES_AT)
        plain = bytearray(self.header)
        _ATTRIBUTES.pack_into(plain, _ATTRIBUTES_AT, attributes & ~_CODEC)
        yield from DefaultRecordBatch(bytes(plain) + self.data)


def records_of(batches: Sequence[RecordBatch]) -> Records:
    """Return the records of consecutive *batches* as columns.

    Raises:
        CorruptRecordException: a batch does not agree with its header.
    """
    counts = np.array([batch.count for batch in batches], dtype=np.int64)
    sizes = np.array([len(batch.data) for batch in batches], dtype=np.int64)
    head = _HEAD + varint(int(counts.sum())) + varint(int(sizes.sum()))
    data = b"".join((head, *(batch.data for batch in batches), _TAIL))
    starts, ends = _bounds(data, len(head))
    last = np.cumsum(counts) - 1
    if len(ends) == counts.sum() and (ends[last] == len(head) + np.cumsum(sizes)).all():
        records = _columns(Cursors(PayloadBytes(data), starts, ends), batches, counts)
        if records is not None:
            return records
    return Records.of([record for batch in batches for record in batch.records()])


def _bounds(data: bytes, begin: int) -> tuple[Int64s, Int64s]:
    """Return the start of each record, behind its length, and its end."""
    try:
        sizes = pl.read_avro(io.BytesIO(data))[_FIELD].bin.size().to_numpy().astype(np.int64)
    except (PolarsError, PanicException):  # invalid; aiokafka's parser raises the error
        sizes = np.empty(0, dtype=np.int64)
    widths = sum(((sizes >= least).astype(np.int64) for least in _WIDER), np.int64(1))
    ends = np.cumsum(sizes + widths) + begin
    return ends - sizes, ends


def _columns(cursors: Cursors, batches: Sequence[RecordBatch], counts: Int64s) -> Records | None:
    """Return all records, read by *cursors*; None if one of them is invalid."""
    cursors.move(1)  # attributes, unused
    times_ms = cursors.number()
    offsets = cursors.number()
    keys, values = _texts(cursors), _texts(cursors)
    headers = cursors.number()
    whole = np.where(headers == 0, cursors.at == cursors.ends, cursors.at < cursors.ends)
    if cursors.failed.any() or not whole.all() or headers.min(initial=0) < 0:
        return None
    is_append_time = np.repeat([batch.is_append_time for batch in batches], counts)
    appended_ms = np.repeat([batch.last_ms for batch in batches], counts)
    sent_ms = np.repeat([batch.first_ms for batch in batches], counts) + times_ms
    return Records(
        keys,
        values,
        np.repeat([batch.offset for batch in batches], counts) + offsets,
        np.where(is_append_time, appended_ms, sent_ms),
    )


def _texts(cursors: Cursors) -> Payloads:
    """Read one length and so many bytes of each record; a negative length means null."""
    sizes = cursors.number()
    starts = cursors.at.copy()
    cursors.move(np.clip(sizes, 0, len(cursors.source.data)))
    ends = cursors.at.copy()
    ends[sizes < 0] = NOWHERE
    return Payloads(cursors.source.data, starts, ends)


def _head() -> bytes:
    """Return the header of an Avro file of `bytes`, up to the size of its only block."""
    schema = {"type": "record", "name": "batch", "fields": [{"name": _FIELD, "type": "bytes"}]}
    texts = [b"avro.schema", json.dumps(schema).encode(), b"avro.codec", b"null"]
    entries = b"".join(varint(len(text)) + text for text in texts)
    return b"Obj\x01" + varint(2) + entries + b"\x00" + _SYNC


_FIELD = "record"
_HEAD = _head()
_WIDER = (2**6, 2**13, 2**20, 2**27)  # from each of these on, a length takes one more byte
