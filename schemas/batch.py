"""The payloads of one fetched batch side by side in memory, and which schema each names.

All payloads are joined once, a guard of eight random bytes behind each. If all name the same
schema, which is the rule, these very bytes are the block that is decoded (`avroblock.py`): another
copy would cost as much as looking through them. It knows no store and no loop.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill.schemas.survey import PADDING, Positions
from tidemill.schemas.wire import (
    CONFLUENT,
    CONFLUENT_BYTES,
    MAX_PAYLOAD_BYTES,
    SINGLE_OBJECT,
    SINGLE_OBJECT_BYTES,
)

GUARD_BYTES = 8
SYNC = bytes(PADDING)
"""The marker at the end of a block, 16 bytes, which also is the survey's padding."""


@dataclass(frozen=True, slots=True)
class Poison:
    """A payload that cannot be read: its place in the batch, a reason word, and what is wrong."""

    row: int
    reason: str
    detail: str


class Batch:
    """Joined payloads; what is empty, too large or without a prefix is poison and left out."""

    def __init__(
        self,
        values: Sequence[bytes | None],
        *,
        head: Callable[[int, int], bytes] | None = None,
        guarded: bool = True,
    ) -> None:
        """Join *values*; without *guarded* nothing stands between them, for tests only.

        *head* gives what stands before them, from their number and how many bytes they are.
        """
        self.poison: list[Poison] = []
        self.values, self._sizes = self._readable(values)
        self.guard = os.urandom(GUARD_BYTES) if guarded else b""
        ends = np.cumsum(self._sizes + len(self.guard))
        self.head = head(len(ends), int(ends[-1])) if head and len(ends) else b""
        first = [self.head + each for each in self.values[:1]]
        self.data = self.guard.join((*first, *self.values[1:], SYNC))
        self.ends: Positions = ends + (len(self.head) - len(self.guard))
        self.starts: Positions = self.ends - self._sizes

    def _readable(self, values: Sequence[bytes | None]) -> tuple[Sequence[bytes], Positions]:
        """Return *values* and their sizes, with empty bytes for each that is none or too large."""
        kept: Sequence[bytes] = values  # type: ignore[assignment]  # a None has no len
        with suppress(TypeError):
            sizes = np.fromiter(map(len, kept), np.int64, len(kept))
            if not len(sizes) or (sizes.min() > 0 and sizes.max() <= MAX_PAYLOAD_BYTES):
                return kept, sizes
        kept = []
        for row, value in enumerate(values):
            size = len(value or b"")
            if not value:
                what = "no value" if value is None else "no bytes"
                self.poison.append(Poison(row, "empty", what))
            elif size > MAX_PAYLOAD_BYTES:
                self.poison.append(Poison(row, "oversize", f"{size} bytes, over 1 MiB"))
            kept.append(value if value and size <= MAX_PAYLOAD_BYTES else b"")
        return kept, np.fromiter(map(len, kept), np.int64, len(kept))

    def groups(self) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
        """Return each prefix with the rows that start with it."""
        words = np.ndarray((len(self.data) - 7,), "<u8", self.data, strides=(1,))
        first = words[self.starts]
        single = (first & np.uint64(0xFFFF)) == int.from_bytes(SINGLE_OBJECT, "little")
        single &= self._sizes >= SINGLE_OBJECT_BYTES
        framed = ((first & np.uint64(0xFF)) == CONFLUENT[0]) & (self._sizes >= CONFLUENT_BYTES)
        yield from self._group(single, words[self.starts + 2 * single], SINGLE_OBJECT_BYTES)
        yield from self._group(framed, first & np.uint64(0xFFFFFFFFFF), CONFLUENT_BYTES)
        for row in np.flatnonzero(~single & ~framed & (self._sizes > 0)).tolist():
            what = f"starts with {self.values[row][:2].hex()}, which names no schema"
            self.poison.append(Poison(row, "unknown-schema", what))

    def _group(
        self, those: NDArray[np.bool_], keys: NDArray[np.uint64], size: int
    ) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
        if not those.any():
            return
        if those.all() and (keys == keys[0]).all():
            yield self.values[0][:size], np.arange(len(keys))
            return
        rows = np.flatnonzero(those)
        order = rows[np.argsort(keys[rows], kind="stable")]
        changes = np.flatnonzero(np.diff(keys[order])) + 1
        for group in np.split(order, changes):
            yield self.values[int(group[0])][:size], group
