"""The payloads of one batch in one buffer, and the schema prefix of each.

Each payload is a range of the buffer, and there may be other bytes between two of them. A payload
becomes a Python object only if somebody asks for it.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tidemill.schemas.avro.arrow_columns import Flags
from tidemill.schemas.avro.cursors import PADDING, Positions
from tidemill.schemas.avro.wire import (
    CONFLUENT,
    CONFLUENT_BYTES,
    MAX_PAYLOAD_BYTES,
    SINGLE_OBJECT,
    SINGLE_OBJECT_BYTES,
)

NOWHERE = -1
"""The end of a payload that is None."""


@dataclass(frozen=True, slots=True)
class Poison:
    """A payload that cannot be read: its index in the batch, a reason, and what is wrong."""

    row: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Payloads:
    """Ranges of *data*, followed by `PADDING` bytes; a payload that is None ends below 0."""

    data: bytes
    starts: Positions
    ends: Positions

    @classmethod
    def of(cls, values: Sequence[bytes | None]) -> Self:
        """Return *values* copied into one buffer."""
        kept: Sequence[bytes] = values  # type: ignore[assignment]  # a None has no len
        with suppress(TypeError):
            return cls._of(kept, np.fromiter(map(len, kept), np.int64, len(kept)))
        kept = [value or b"" for value in values]
        made = cls._of(kept, np.fromiter(map(len, kept), np.int64, len(kept)))
        made.ends[[row for row, value in enumerate(values) if value is None]] = NOWHERE
        return made

    @classmethod
    def _of(cls, values: Sequence[bytes], sizes: Positions) -> Self:
        ends = np.cumsum(sizes)
        return cls(b"".join((*values, bytes(PADDING))), ends - sizes, ends)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> bytes | None:
        start, end = int(self.starts[row]), int(self.ends[row])
        return None if end == NOWHERE else self.data[start:end]

    def __iter__(self) -> Iterator[bytes | None]:
        return map(self.__getitem__, range(len(self)))

    def prefix(self, row: int) -> bytes:
        """Return the first bytes of a payload, enough to hold the prefix of either wire format."""
        return (self[row] or b"")[:SINGLE_OBJECT_BYTES]

    def groups(self) -> tuple[dict[bytes, NDArray[np.int64]], list[Poison]]:
        """Return the rows of each schema prefix, and the payloads that cannot be read at all.

        A payload that is empty, too large, or without a prefix of either wire format is poison.
        """
        sizes = self.ends - self.starts
        poison = list(self._unreadable(sizes))
        fits = sizes <= MAX_PAYLOAD_BYTES
        words = np.ndarray((len(self.data) - 7,), "<u8", self.data, strides=(1,))
        first = words[self.starts]
        single = (first & np.uint64(0xFFFF)) == int.from_bytes(SINGLE_OBJECT, "little")
        single &= fits & (sizes >= SINGLE_OBJECT_BYTES)
        framed = (first & np.uint64(0xFF)) == CONFLUENT[0]
        framed &= fits & (sizes >= CONFLUENT_BYTES)
        groups = dict(self._group(single, self.starts + 2, words, SINGLE_OBJECT_BYTES))
        groups |= self._group(framed, self.starts, words, CONFLUENT_BYTES)
        for row in np.flatnonzero(~single & ~framed & fits & (sizes > 0)).tolist():
            what = f"starts with {self.prefix(row)[:2].hex()}, which names no schema"
            poison.append(Poison(row, "unknown-schema", what))
        return groups, poison

    def _unreadable(self, sizes: Positions) -> Iterator[Poison]:
        for row in np.flatnonzero((sizes <= 0) | (sizes > MAX_PAYLOAD_BYTES)).tolist():
            if sizes[row] > 0:
                yield Poison(row, "oversize", f"{sizes[row]} bytes, over 1 MiB")
            else:
                none = self.ends[row] == NOWHERE
                yield Poison(row, "empty", "no value" if none else "no bytes")

    def _group(
        self, those: Flags, at: Positions, words: NDArray[np.uint64], size: int
    ) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
        if not those.any():
            return
        keys = words[at] if size == SINGLE_OBJECT_BYTES else words[at] & np.uint64(0xFFFFFFFFFF)
        if those.all() and (keys == keys[0]).all():
            yield self.prefix(0)[:size], np.arange(len(keys))
            return
        rows = np.flatnonzero(those)
        order = rows[np.argsort(keys[rows], kind="stable")]
        changes = np.flatnonzero(np.diff(keys[order])) + 1
        for group in np.split(order, changes):
            yield self.prefix(int(group[0]))[:size], group
