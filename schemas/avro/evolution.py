"""Schema evolution: what a new schema may change, and how old columns become those of the new one.

The promise: every event that was ever published stays readable.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import polars as pl

from tidemill.errors import ContractError
from tidemill.schemas.avro.types import (
    column_type,
    described,
    fields_of,
    full_name,
    item_of,
    optional,
    type_name,
    without_column,
)
from tidemill.schemas.avro.wire import Schema

_PROMOTIONS: Mapping[str, Sequence[str]] = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
}
EACH = "[]"
"""Each item of a list, in the path of a column."""
_PLAIN = frozenset(
    ("boolean", "int", "long", "float", "double", "bytes", "string", "timestamp-micros")
)


def check_successor(subject: str, older: Iterable[Schema], new: Schema) -> None:
    """Check that events of every schema in *older* can be read as *new*.

    Raises:
        ContractError: some cannot; it names the first incompatible change.
    """
    for old in older:
        check_compatible(old, new, subject=subject)


def check_compatible(old: Schema, new: Schema, *, subject: str = "") -> None:
    """Check that events written with *old* can be read as *new*: Avro's BACKWARD compatibility.

    A field may be removed. A new field needs a default or must be nullable. A type may become wider
    (int, long, float, double) or nullable, and nothing else.

    Raises:
        ContractError: a change is not among these.
    """
    label = subject or str(new.get("name"))
    if full_name(old) != full_name(new):
        raise ContractError(
            f"{label}: {full_name(old)} cannot become {full_name(new)}",
            hint="register another record under a subject of its own",
        )
    _check_record(old, new, f"{label}: ")


def _check_record(old: Schema, new: Schema, path: str) -> None:
    had = {cast(str, field["name"]): field for field in fields_of(old)}
    for field in fields_of(new):
        name = cast(str, field["name"])
        before = _match(field, had)
        if before is None:
            if "default" not in field:
                raise ContractError(
                    f"{path}{name} is new and has no default, so events without it are unreadable",
                    hint=f"give {name} a default, or say nullable: true",
                )
        else:
            _check_type(before["type"], field["type"], path + name)


def _check_type(old: object, new: object, path: str) -> None:
    if isinstance(old, list) or isinstance(new, list):
        nullable = optional(old)[0] and not optional(new)[0]
        if nullable:
            raise ContractError(
                f"{path} was nullable and no longer is, so older events may not fit",
                hint=f"leave it nullable, or name a new field beside {path.rpartition(' ')[2]}",
            )
    was, now = optional(old)[1], optional(new)[1]
    if type_name(was) == type_name(now) == "record":
        _check_record(cast(Schema, was), cast(Schema, now), path + ".")
    elif _are_records(was, now):
        _check_record(cast(Schema, item_of(was)), cast(Schema, item_of(now)), path + "[].")
    elif not _widens(was, now):
        raise ContractError(
            f"{path} was {described(was)} and would become {described(now)}",
            hint="keep the type, or add a field of another name and let this one go",
        )


def _widens(old: object, new: object) -> bool:
    was, now = type_name(old), type_name(new)
    if was == now == "array":
        return _widens(item_of(old), item_of(new))
    if was == now:
        return was in _PLAIN or old == new
    return now in _PROMOTIONS.get(was, ())


def _are_records(old: object, new: object) -> bool:
    """Return whether both types are lists of records, which are matched field by field."""
    return all(
        type_name(each) == "array" and type_name(item_of(each)) == "record" for each in (old, new)
    )


def _match(
    field: Mapping[str, object], had: Mapping[str, Mapping[str, object]]
) -> Mapping[str, object] | None:
    """Return the writer's field that matches the reader's *field*: by name, else by alias."""
    aliases = cast(Sequence[str], field.get("aliases", ()))
    for name in (cast(str, field["name"]), *aliases):
        if name in had:
            return had[name]
    return None


def resolve(frame: pl.DataFrame, writer: Schema, reader: Schema) -> pl.DataFrame:
    """Return *frame*, read with *writer*, in the columns of *reader*, by Avro's rules.

    Fields are matched by name or alias and widened. A field that *writer* lacks gets its default.
    Inside a nested record, whose columns may be null anyway, a field without a default becomes
    null: a later version of the loop has removed that feature.

    Raises:
        ContractError: a field of *writer* cannot be read as *reader* declares it.
    """
    if writer == reader:
        return frame
    had = {cast(str, field["name"]): field for field in fields_of(writer)}
    columns = [_resolve_field(field, had, None) for field in fields_of(reader)]
    return frame.select(columns)


def unsure_columns(writer: Schema, reader: Schema) -> list[tuple[str, ...]]:
    """Return what *writer* may leave null although *reader* declares it not null.

    Each is the path of a column, or of a field of its struct; `EACH` is each item of a list.
    """
    return list(_unsure(writer, reader, ()))


def _unsure(writer: object, reader: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    had = {cast(str, field["name"]): field for field in fields_of(writer)}
    for field in fields_of(reader):
        before = _match(field, had)
        if before is None:
            continue
        inside = (*path, cast(str, field["name"]))
        (may, was), (can, now) = optional(before["type"]), optional(field["type"])
        if may and not can:
            yield inside
        if type_name(was) == type_name(now) == "record":
            yield from _unsure(was, now, inside)
        elif _are_records(was, now):
            yield from _unsure(item_of(was), item_of(now), (*inside, EACH))


def _resolve_field(
    field: Mapping[str, object],
    had: Mapping[str, Mapping[str, object]],
    parent: pl.Expr | None,
) -> pl.Expr:
    name = cast(str, field["name"])
    before = _match(field, had)
    plain = optional(field["type"])[1]
    if before is None:
        if parent is None and "default" not in field:
            raise ContractError(
                f"{name} is missing in the event and has no default",
                hint="produce events with the schemas of docs/guide/contracts.md",
            )
        return pl.lit(field.get("default"), dtype=column_type(plain)).alias(name)
    old = cast(str, before["name"])
    if parent is None and (odd := without_column(before["type"], name)) is not None:
        raise ContractError(
            f"{odd[0]} is {described(odd[1])} in the event, which no column can hold",
            hint="produce events with the schemas of docs/guide/contracts.md",
        )
    source = pl.col(old) if parent is None else parent.struct.field(old)
    was = optional(before["type"])[1]
    if type_name(was) == type_name(plain) == "record":
        inner = {cast(str, each["name"]): each for each in fields_of(was)}
        parts = [_resolve_field(each, inner, source) for each in fields_of(plain)]
        return pl.struct(parts).alias(name) if parts else source.alias(name)
    if _are_records(was, plain):
        if item_of(was) == item_of(plain):
            return source.alias(name)
        inner = {cast(str, each["name"]): each for each in fields_of(item_of(was))}
        parts = [_resolve_field(e, inner, pl.element()) for e in fields_of(item_of(plain))]
        return source.list.eval(pl.struct(parts)).alias(name)
    if not _widens(was, plain):
        raise ContractError(
            f"{name} is {described(was)} in the event and {described(plain)} here",
            hint="run a version of the loop that knows this schema",
        )
    target = column_type(plain)
    if target is not None and type_name(was) != type_name(plain):
        source = source.cast(target)
    return source.alias(name)
