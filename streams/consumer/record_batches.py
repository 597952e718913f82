"""Record batches as Kafka stores them, read to columns without an object for each record.

A record is a length and that many bytes, which is what Avro calls `bytes`: Polars' Avro reader
finds where records begin and end, and cursors (`schemas/avro/columnar_decoder.py`) read all of them
at once. What they do not read to the end, aiokafka's own parser reads, or says what is wrong with
it. It knows no Faust and no schema.

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
_NO_BLOCK = bytes(2) + _SYNC  # as many records as none; so padding is Avro too
_TAIL = _SYNC + _NO_BLOCK * -(-PADDING // len(_NO_BLOCK))


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """One record batch of magic 2 whose checksum is right: its header, and its bytes unpacked."""

    header: bytes
    data: bytes
    offset: int  # of the first record, were none compacted away
    count: int
    first_ms: int
    last_ms: int
    is_append_time: bool

    @classmethod
    def of(cls, raw: bytes) -> "RecordBatch | None":
        """Return the chunk of a record batch; None if its codec is unknown here."""
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
        """1 if its records bear the broker's time, 0 if the producer's."""
        return int(self.is_append_time)

    def records(self) -> Iterator[Any]:
        """Yield its records as aiokafka parses them.

        Raises:
            CorruptRecordException: they are not what the header says.
        """
        (attributes,) = _ATTRIBUTES.unpack_from(self.header, _ATTRIBUTES_AT)
        plain = bytearray(self.header)
        _ATTRIBUTES.pack_into(plain, _ATTRIBUTES_AT, attributes & ~_CODEC)
        yield from DefaultRecordBatch(bytes(plain) + self.data)


def records_of(chunks: Sequence[RecordBatch]) -> Records:
    """Return the records of *chunks*, which follow each other.

    Raises:
        CorruptRecordException: one does not hold what its header says.
    """
    counts = np.array([chunk.count for chunk in chunks], dtype=np.int64)
    sizes = np.array([len(chunk.data) for chunk in chunks], dtype=np.int64)
    head = _HEAD + varint(int(counts.sum())) + varint(int(sizes.sum()))
    data = b"".join((head, *(chunk.data for chunk in chunks), _TAIL))
    starts, ends = _bounds(data, len(head))
    last = np.cumsum(counts) - 1
    if len(ends) == counts.sum() and (ends[last] == len(head) + np.cumsum(sizes)).all():
        found = _columns(Cursors(PayloadBytes(data), starts, ends), chunks, counts)
        if found is not None:
            return found
    return Records.of([record for chunk in chunks for record in chunk.records()])


def _bounds(data: bytes, begin: int) -> tuple[Int64s, Int64s]:
    """Return where each record starts, behind its length, and where it ends."""
    try:
        sizes = pl.read_avro(io.BytesIO(data))[_FIELD].bin.size().to_numpy().astype(np.int64)
    except (PolarsError, PanicException):  # no records; aiokafka's parser says what they are
        sizes = np.empty(0, dtype=np.int64)
    widths = sum(((sizes >= least).astype(np.int64) for least in _WIDER), np.int64(1))
    ends = np.cumsum(sizes + widths) + begin
    return ends - sizes, ends


def _columns(cursors: Cursors, chunks: Sequence[RecordBatch], counts: Int64s) -> Records | None:
    """Return what *cursors* read of all records, or None if one of them is not as it should be."""
    cursors.move(1)  # attributes, unused
    times_ms = cursors.number()
    offsets = cursors.number()
    keys, values = _texts(cursors), _texts(cursors)
    headers = cursors.number()
    whole = np.where(headers == 0, cursors.at == cursors.ends, cursors.at < cursors.ends)
    if cursors.failed.any() or not whole.all() or headers.min(initial=0) < 0:
        return None
    is_append_time = np.repeat([chunk.is_append_time for chunk in chunks], counts)
    appended_ms = np.repeat([chunk.last_ms for chunk in chunks], counts)
    sent_ms = np.repeat([chunk.first_ms for chunk in chunks], counts) + times_ms
    return Records(
        keys,
        values,
        np.repeat([chunk.offset for chunk in chunks], counts) + offsets,
        np.where(is_append_time, appended_ms, sent_ms),
    )


def _texts(cursors: Cursors) -> Payloads:
    """Step over one length and so many bytes in each record; a negative length stands for null."""
    sizes = cursors.number()
    starts = cursors.at.copy()
    cursors.move(np.clip(sizes, 0, len(cursors.source.data)))
    ends = cursors.at.copy()
    ends[sizes < 0] = NOWHERE
    return Payloads(cursors.source.data, starts, ends)


def _head() -> bytes:
    """Return the begin of an Avro file of `bytes`, up to the size of its only block."""
    schema = {"type": "record", "name": "batch", "fields": [{"name": _FIELD, "type": "bytes"}]}
    texts = [b"avro.schema", json.dumps(schema).encode(), b"avro.codec", b"null"]
    entries = b"".join(varint(len(text)) + text for text in texts)
    return b"Obj\x01" + varint(2) + entries + b"\x00" + _SYNC


_FIELD = "record"
_HEAD = _head()
_WIDER = (2**6, 2**13, 2**20, 2**27)  # from here on a length takes a byte more
