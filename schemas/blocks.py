"""Decode a batch of event payloads to columns: `EventDecoder`.

Payloads of one writer schema are framed as one Avro block in memory and decoded in one call, with a
guard after each so that a broken one cannot shift its neighbours. What does not come back whole is
read by itself (`slowpath.py`). Every payload ends in exactly one of `Decoded.frame` and
`Decoded.poison`, and which one depends on nothing but its bytes and its schema.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import polars as pl

from tidemill.errors import ContractError
from tidemill.schemas.avroblock import BlockReader
from tidemill.schemas.events import (
    Kind,
    decision_frame_schema,
    decision_schema,
    feedback_frame_schema,
    feedback_schema,
)
from tidemill.schemas.evolution import full_name, resolve, why_unreadable
from tidemill.schemas.loop import Loop
from tidemill.schemas.store import SchemaStore
from tidemill.schemas.wire import MAX_PAYLOAD_BYTES, Schema, prefix_of


@dataclass(frozen=True, slots=True)
class Poison:
    """A payload that cannot be read: its place in the batch, a reason word, and what is wrong."""

    row: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a batch.

    *frame* has the columns of `decision_frame_schema` or `feedback_frame_schema` behind a first
    column ``row`` (UInt32), the index of the payload in the batch, ascending. *poison* has the
    rest, ascending too.
    """

    frame: pl.DataFrame
    poison: list[Poison]


Shape = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How payloads of one prefix become rows of the topic's frame."""

    block: BlockReader
    shape: Shape
    prefix_bytes: int


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why no payload of one prefix is read."""

    reason: str
    detail: str


class EventDecoder:
    """Decodes one topic of a loop; the schemas it meets are looked up once and remembered."""

    def __init__(
        self, loop: Loop, topic_kind: Kind, store: SchemaStore, *, guarded: bool = True
    ) -> None:
        self._store = store
        self._guarded = guarded
        self._plans: dict[bytes, _Plan | _Refusal] = {}
        self._readers: dict[str, tuple[Schema, Shape]] = {}
        if topic_kind == "decisions":
            self.frame_schema = decision_frame_schema(loop)
            schema = decision_schema(loop)
            self._readers[full_name(schema)] = schema, _same
        else:
            self.frame_schema = feedback_frame_schema(loop)
            for kind in loop.feedback:
                schema = feedback_schema(loop, kind)
                values = loop.feedback[kind].values
                self._readers[full_name(schema)] = (
                    schema,
                    _feedback(kind, values, self.frame_schema),
                )

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return the columns and the poison of *values*, the payloads of one batch.

        Raises:
            BrokerError: a schema is not known here and the store does not answer.
        """
        poison: list[Poison] = []
        groups = _groups(values, poison)
        self._learn(groups.keys())
        frames: list[pl.DataFrame] = []
        for prefix, rows in groups.items():
            match self._plans.get(prefix):
                case None:
                    what = f"no schema is registered for {prefix.hex()}"
                    poison += [Poison(row, "unknown-schema", what) for row in rows]
                case _Refusal(reason, detail):
                    poison += [Poison(row, reason, detail) for row in rows]
                case plan:
                    payloads = [value for row in rows if (value := values[row])]
                    frames += self._read(plan, rows, payloads, poison)
        empty = pl.DataFrame(schema={"row": pl.UInt32(), **self.frame_schema})
        frame = pl.concat([empty, *frames])
        if not frame["row"].is_sorted():
            frame = frame.sort("row")
        return Decoded(frame, sorted(poison, key=lambda each: each.row))

    def _learn(self, prefixes: Collection[bytes]) -> None:
        missing = prefixes - self._plans.keys()
        if missing:
            for prefix, writer in self._store.lookup_all(missing).items():
                self._plans[prefix] = self._plan(writer, len(prefix))

    def _plan(self, writer: Schema, prefix_bytes: int) -> _Plan | _Refusal:
        if refusal := why_unreadable(writer):
            return _Refusal(refusal[0], f"its schema {refusal[1]}")
        name = full_name(writer)
        if name not in self._readers:
            return _Refusal("wrong-type", f"{name} is no event of this topic")
        reader, shape = self._readers[name]
        block = BlockReader(writer, guarded=self._guarded)
        try:
            resolve(pl.DataFrame(schema=block.columns), writer, reader)
        except (ContractError, pl.exceptions.PolarsError) as error:
            return _Refusal("incompatible-schema", str(error))
        return _Plan(block, lambda frame: shape(resolve(frame, writer, reader)), prefix_bytes)

    def _read(
        self, plan: _Plan, rows: Sequence[int], payloads: Sequence[bytes], poison: list[Poison]
    ) -> Iterator[pl.DataFrame]:
        read = plan.block.read(payloads, plan.prefix_bytes)
        poison += [Poison(rows[at], error.reason, error.what) for at, error in read.refused]
        if read.frames:
            frame = plan.shape(pl.concat(read.frames))
            index = pl.Series("row", [rows[at] for at in read.indexes], dtype=pl.UInt32)
            yield frame.insert_column(0, index)


def _groups(values: Sequence[bytes | None], poison: list[Poison]) -> dict[bytes, list[int]]:
    """Return the rows of each prefix; what has none is added to *poison*."""
    groups: dict[bytes, list[int]] = {}
    for row, value in enumerate(values):
        if not value:
            poison.append(Poison(row, "empty", "no value" if value is None else "no bytes"))
        elif len(value) > MAX_PAYLOAD_BYTES:
            poison.append(Poison(row, "oversize", f"{len(value)} bytes, over 1 MiB"))
        elif (prefix := prefix_of(value)) is None:
            what = f"starts with {value[:2].hex()}, which names no schema"
            poison.append(Poison(row, "unknown-schema", what))
        else:
            groups.setdefault(prefix, []).append(row)
    return groups


def _same(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def _feedback(kind: str, values: Collection[str], schema: pl.Schema) -> Shape:
    """Return the step that puts feedback of one *kind* into the frame of all kinds."""
    listed = cast(pl.Struct, schema["values"]).fields
    source = pl.col("values").struct
    struct = pl.struct(
        source.field(each.name)
        if each.name in values
        else pl.lit(None, each.dtype).alias(each.name)
        for each in listed
    )
    columns = [
        pl.col("id"),
        pl.col("decision_id"),
        pl.lit(kind).alias("kind"),
        pl.col("at"),
        struct.alias("values"),
    ]
    return lambda frame: frame.select(columns)
