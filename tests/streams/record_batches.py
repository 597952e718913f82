"""Record batches made by aiokafka's own encoder, for tests of what reads them."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import strategies as st

ATTRIBUTES_AT, CRC_AT, LAST_TIME_AT = 21, 17, 35
APPEND_TIME, CONTROL = 0x08, 0x20
ABORT, COMMIT = 0, 1

Header = tuple[str, bytes | None]


class Sent(NamedTuple):
    """A record as a producer sends it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()


def record_batch(
    base: int,
    records: Sequence[Sent],
    *,
    codec: int = 0,
    producer: int = -1,
    appended_ms: int | None = None,
    control: bool = False,
) -> bytes:
    """Return a record batch of magic 2 as a broker stores it, at offset *base*.

    With a *producer* it is part of a transaction; with *appended_ms* it has the broker's time.
    """
    builder = DefaultRecordBatchBuilder(
        2, codec, int(producer >= 0), producer, 0 if producer >= 0 else -1, -1, 2**20
    )
    for offset, timestamp, key, value, headers in records:
        builder.append(offset - base, timestamp, key, value, list(headers))
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, base)
    (attributes,) = struct.unpack_from(">h", made, ATTRIBUTES_AT)
    if appended_ms is not None:
        attributes |= APPEND_TIME
        struct.pack_into(">q", made, LAST_TIME_AT, appended_ms)
    struct.pack_into(">h", made, ATTRIBUTES_AT, attributes | CONTROL * control)
    return with_checksum(made)


def with_checksum(made: bytearray) -> bytes:
    """Return *made* with the checksum of its bytes."""
    struct.pack_into(">I", made, CRC_AT, calc_crc32c(bytes(made[ATTRIBUTES_AT:])))
    return bytes(made)


def control_batch(offset: int, producer: int, kind: int) -> bytes:
    """Return the control batch that ends a transaction of *producer*."""
    key, value = struct.pack(">hh", 0, kind), struct.pack(">hi", 0, 0)
    return record_batch(offset, [Sent(offset, 5, key, value)], producer=producer, control=True)


payloads = st.none() | st.binary(max_size=40) | st.integers(60, 9_000).map(bytes)
headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3)


@st.composite
def sent(draw: st.DrawFn, base: int = 0, most: int = 30) -> list[Sent]:
    """Draw records behind *base*, with gaps where others were compacted away."""
    offset = base - 1
    found = []
    for _ in range(draw(st.integers(1, most))):
        offset += draw(st.sampled_from([1, 1, 1, 1, 2, 200]))
        timestamp = draw(st.integers(0, 2**41))
        few = draw(st.just([]) | headers)
        found.append(Sent(offset, timestamp, draw(payloads), draw(payloads), few))
    return found
