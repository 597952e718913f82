"""Decode a batch of event payloads to columns: `EventDecoder`.

Payloads of one writer schema are decoded together and those in doubt one by one
(`avro/payload_reader.py`); events of older or newer schemas are converted to the loop's columns
(`avro/evolution.py`). Every payload ends in exactly one of `Decoded.frame` and `Decoded.poison`;
its bytes and its schema alone decide in which.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl

from tidemill.errors import ContractError
from tidemill.schemas.avro.evolution import EACH, resolve, unsure_columns
from tidemill.schemas.avro.limits import why_unreadable
from tidemill.schemas.avro.payload_reader import PayloadReader, PayloadRows
from tidemill.schemas.avro.payloads import Payloads, Poison
from tidemill.schemas.avro.types import full_name
from tidemill.schemas.avro.wire import Schema, single_object_prefix
from tidemill.schemas.events.schemas import (
    decision_frame_schema,
    decision_schema,
    feedback_frame_schema,
    feedback_schema,
)
from tidemill.schemas.logs import Log, is_feedback
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.port import SchemaStore

__all__ = ["Decoded", "EventDecoder", "Poison"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The result of decoding one batch.

    *frame* has a first column ``row`` (UInt32), the index of the payload in the batch, ascending,
    and then the columns of `decision_frame_schema` or `feedback_frame_schema`. *poison* has the
    payloads that cannot be read, ascending too. *slowly_read* counts those read one by one.
    """

    frame: pl.DataFrame
    poison: list[Poison]
    slowly_read: int = 0


Shape = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True, slots=True)
class _ReadPlan:
    """How payloads with one prefix become rows of the log's frame."""

    reader: PayloadReader
    shape: Shape
    resolve: Shape
    unsure: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _RefusedPrefix:
    """Why no payload with one prefix is read."""

    reason: str
    detail: str


class EventDecoder:
    """Decodes one log of a loop; it looks up each writer schema once."""

    def __init__(self, loop: Loop, log: Log, store: SchemaStore) -> None:
        """Decode *log* of *loop* with the schemas of *store*.

        A log of feedback is read for every kind, because a kind may move to another stream while
        its older events stay on the former log.
        """
        self._store = store
        self._plans: dict[bytes, _ReadPlan | _RefusedPrefix] = {}
        self._readers: dict[str, tuple[Schema, Shape]] = {}
        if not is_feedback(log):
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
        # Another schema may have the same prefix: it is over the canonical form of a schema.
        self._own = {single_object_prefix(schema): schema for schema, _ in self._readers.values()}

    def decode(self, values: Payloads | Sequence[bytes | None]) -> Decoded:
        """Return the columns and the poison of the payloads *values* of one batch.

        Raises:
            BrokerError: a schema is looked up for the first time and the store does not answer.
        """
        payloads = values if isinstance(values, Payloads) else Payloads.of(values)
        groups, poison = payloads.groups()
        self._learn(groups.keys())
        slowly_read = 0
        frames: list[pl.DataFrame] = []
        for prefix, rows in groups.items():
            match self._plans.get(prefix):
                case None:
                    what = f"no schema is registered for {prefix.hex()}"
                    poison += [Poison(row, "unknown-schema", what) for row in rows.tolist()]
                case _RefusedPrefix(reason, detail):
                    poison += [Poison(row, reason, detail) for row in rows.tolist()]
                case plan:
                    read = plan.reader.read(payloads, rows)
                    slowly_read += read.slowly
                    poison += [Poison(row, each.reason, each.what) for row, each in read.refused]
                    frames += _shaped(plan, read, poison)
        poison.sort(key=lambda each: each.row)
        return Decoded(self._together(frames), poison, slowly_read)

    def _together(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """Return *frames* as one, in the order of the rows."""
        match frames:
            case []:
                return pl.DataFrame(schema={"row": pl.UInt32(), **self.frame_schema})
            case [frame]:
                pass
            case _:
                frame = pl.concat(frames)
        return frame if frame["row"].is_sorted() else frame.sort("row")

    def _learn(self, prefixes: Collection[bytes]) -> None:
        missing = prefixes - self._plans.keys()
        if missing:
            for prefix, writer in self._store.lookup_all(missing).items():
                self._plans[prefix] = self._plan(self._own.get(prefix, writer), prefix)

    def _plan(self, writer: Schema, prefix: bytes) -> _ReadPlan | _RefusedPrefix:
        if refusal := why_unreadable(writer):
            return _RefusedPrefix(refusal[0], f"its schema {refusal[1]}")
        name = full_name(writer)
        if name not in self._readers:
            return _RefusedPrefix("wrong-type", f"{name} is no event of this topic")
        reader, shape = self._readers[name]
        payloads = PayloadReader(writer, prefix)
        try:
            resolve(pl.DataFrame(schema=payloads.columns), writer, reader)
        except (ContractError, pl.exceptions.PolarsError) as error:
            return _RefusedPrefix("incompatible-schema", str(error))
        return _ReadPlan(
            payloads,
            resolve=lambda frame: resolve(frame, writer, reader),
            unsure=unsure_columns(writer, reader),
            shape=shape,
        )


def _shaped(plan: _ReadPlan, read: PayloadRows, poison: list[Poison]) -> Iterator[pl.DataFrame]:
    """Return the frames of *read* in the columns of the log, each row with its index."""
    for frame, numbers in zip(read.frames, read.numbers, strict=True):
        column = pl.Series("row", numbers.astype(np.uint32))
        resolved = plan.resolve(frame).insert_column(0, column)
        if plan.unsure:
            null = resolved.select(pl.any_horizontal(map(_is_null, plan.unsure))).to_series()
            what = f"null in one of {', '.join(map('.'.join, plan.unsure))}"
            poison += [Poison(row, "wrong-type", what) for row in resolved.filter(null)["row"]]
            resolved = resolved.filter(~null)
        yield plan.shape(resolved)


def _is_null(path: Sequence[str]) -> pl.Expr:
    """Return whether a column, a field of its struct, or one of an item of its list is null."""
    column, *fields = path
    return _is_null_in(pl.col(column), fields)


def _is_null_in(value: pl.Expr, fields: Sequence[str]) -> pl.Expr:
    match fields:
        case []:
            return value.is_null()
        case [field, *others] if field == EACH:
            return value.list.eval(_is_null_in(pl.element(), others)).list.any().fill_null(False)
        case [field, *others]:
            return _is_null_in(value.struct.field(field), others)
    raise TypeError(fields)


def _same(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def _feedback(kind: str, values: Collection[str], schema: pl.Schema) -> Shape:
    """Return the function that converts feedback of one *kind* to the columns of all kinds."""
    listed = cast(pl.Struct, schema["values"]).fields
    source = pl.col("values").struct
    struct = pl.struct(
        source.field(each.name)
        if each.name in values
        else pl.lit(None, each.dtype).alias(each.name)
        for each in listed
    )
    columns = [
        pl.col("row"),
        pl.col("id"),
        pl.col("decision_id"),
        pl.lit(kind).alias("kind"),
        pl.col("at"),
        struct.alias("values"),
        *([pl.col("item")] if "item" in schema else []),
    ]
    return lambda frame: frame.select(columns)
