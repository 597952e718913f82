"""The records of a batch as columns: keys and values in one buffer of bytes, offsets, times.

Any object with `offset`, `timestamp` (the broker's, in ms), `key` and `value` is a record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from tidemill.schemas.avro.payloads import Payloads
from tidemill.streams.units import Int64s


class FetchedRecord(Protocol):
    """The parts of a record that are read."""

    @property
    def offset(self) -> int:
        """Its offset in the log."""

    @property
    def timestamp(self) -> int:
        """When the broker appended it, in milliseconds since the epoch."""

    @property
    def key(self) -> bytes | None:
        """The decision id, as the producer wrote it."""

    @property
    def value(self) -> bytes | None:
        """The event."""


@dataclass(frozen=True, slots=True)
class Records:
    """Records in the order of their offsets; *timestamps_ms* are the broker's."""

    keys: Payloads
    values: Payloads
    offsets: Int64s
    timestamps_ms: Int64s

    @classmethod
    def of(cls, records: Sequence[FetchedRecord]) -> Self:
        """Return *records* as columns."""
        count = len(records)
        return cls(
            Payloads.of([record.key for record in records]),
            Payloads.of([record.value for record in records]),
            np.fromiter((record.offset for record in records), np.int64, count),
            np.fromiter((record.timestamp for record in records), np.int64, count),
        )

    def __len__(self) -> int:
        return len(self.offsets)
