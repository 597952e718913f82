"""Tests of the strict reader: everything Avro has, nothing that runs away, fastavro as oracle."""

import io
import random
import tracemalloc
from contextlib import suppress

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schemas.sample_events import same

from tidemill.errors import ContractError, PayloadError
from tidemill.schemas.avro.limits import check_schema, why_unreadable
from tidemill.schemas.avro.primitives import EPOCH, MICROSECOND, varint
from tidemill.schemas.avro.scalar_decoder import MAX_VALUES, compile_reader
from tidemill.schemas.avro.wire import MAX_PAYLOAD_BYTES, Schema

INNER = {"type": "record", "name": "Inner", "fields": [{"name": "x", "type": "double"}]}
SCHEMA: Schema = {
    "type": "record",
    "name": "Everything",
    "namespace": "a.b",
    "fields": [
        {"name": "boolean", "type": "boolean"},
        {"name": "int", "type": "int"},
        {"name": "long", "type": "long"},
        {"name": "float", "type": "float"},
        {"name": "double", "type": {"type": "double"}},
        {"name": "bytes", "type": "bytes"},
        {"name": "string", "type": "string"},
        {"name": "fixed", "type": {"type": "fixed", "name": "c.Four", "size": 4}},
        {"name": "again", "type": "c.Four"},
        {"name": "enum", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "inner", "type": INNER},
        {"name": "list", "type": {"type": "array", "items": "Inner"}},
        {"name": "map", "type": {"type": "map", "values": {"type": "array", "items": "int"}}},
        {"name": "union", "type": ["string", "null", "a.b.E"]},
    ],
}
READ = compile_reader(SCHEMA)
PARSED = fastavro.parse_schema(dict(SCHEMA))
inner = st.fixed_dictionaries({"x": st.floats()})
values = st.fixed_dictionaries(
    {
        "boolean": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(width=32),
        "double": st.floats(),
        "bytes": st.binary(max_size=20),
        "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        "fixed": st.binary(min_size=4, max_size=4),
        "again": st.binary(min_size=4, max_size=4),
        "enum": st.sampled_from("AB"),
        "inner": inner,
        "list": st.lists(inner, max_size=3),
        "map": st.dictionaries(st.text("abc"), st.lists(st.integers(-9, 9)), max_size=3),
        "union": st.none() | st.text("xyz"),
    }
)


def written(value: object) -> bytes:
    """Return *value* as fastavro writes it."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, PARSED, value)
    return out.getvalue()


@settings(deadline=None)
@given(values, st.integers(0, 12))
def test_every_type_reads_as_fastavro_reads_it(value: dict[str, object], skip: int) -> None:
    """Producers may use all of Avro beside the fields that a loop reads."""
    body = written(value)
    assert same(READ(bytes(skip) + body, skip)) == same(
        fastavro.schemaless_reader(io.BytesIO(body), PARSED, None)
    )


@settings(deadline=None, max_examples=300)
@given(values, st.randoms(use_true_random=False))
def test_no_bytes_do_anything_but_read_or_refuse(
    value: dict[str, object], chance: random.Random
) -> None:
    """The reader stands between strangers and the worker: one exception, and no other."""
    body = bytearray(written(value))
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(body) + 1)
        body[at : at + chance.randrange(3)] = chance.choice(
            [b"", chance.randbytes(2), varint(chance.randrange(-(2**63), 2**63))]
        )
    with suppress(PayloadError):
        READ(bytes(body), 0)


@pytest.mark.slow
def test_the_largest_payload_takes_bounded_memory() -> None:
    """1 MiB is what Kafka lets through; it must not become gigabytes."""
    schema: Schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "a", "type": {"type": "array", "items": "string"}}],
    }
    read = compile_reader(schema)
    count = MAX_VALUES - 1
    tracemalloc.start()
    assert len(read(varint(count) + bytes(count + 1), 0)["a"]) == count  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20
    with pytest.raises(PayloadError, match="more than"):
        read(varint(MAX_PAYLOAD_BYTES - 10) + bytes(MAX_PAYLOAD_BYTES), 0)


def nested(depth: int) -> object:
    """Return a list of a list of ... of numbers."""
    return {"type": "array", "items": nested(depth - 1)} if depth else "long"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("null", "malformed-schema"),
        ({"type": "array", "items": "null"}, "malformed-schema"),
        (
            {"type": "map", "values": {"type": "record", "name": "E", "fields": []}},
            "malformed-schema",
        ),
        (
            {"type": "array", "items": {"type": "record", "name": "E", "fields": []}},
            "malformed-schema",
        ),
        ({"type": "fixed", "name": "F", "size": 0}, "malformed-schema"),
        ({"type": "fixed", "name": "F", "size": 2**40}, "malformed-schema"),
        (["null", "R"], "recursive-schema"),
        ({"type": "array", "items": "ns.R"}, "recursive-schema"),
        ({"type": "map", "values": {"type": "array", "items": "R"}}, "recursive-schema"),
        (nested(40), "malformed-schema"),
        ([], "malformed-schema"),
        ("unheard", "malformed-schema"),
        (7, "malformed-schema"),
        ({"type": "record", "name": "E", "fields": "x"}, "recursive-schema"),
        ({"type": "enum", "name": "E", "symbols": ["a"] * 300_000}, "malformed-schema"),
    ],
)
def test_a_schema_that_could_make_a_reader_run_away_is_refused(kind: object, reason: str) -> None:
    """Five bytes of a list of nulls took fastavro 399 MB; a recursive record crashed it."""
    schema: Schema = {
        "type": "record",
        "name": "R",
        "namespace": "ns",
        "fields": [{"name": "a", "type": kind}],
    }
    refusal = why_unreadable(schema)
    assert refusal is not None
    assert refusal[0] == reason
    with pytest.raises(ContractError):
        check_schema(schema)


def test_times_are_microseconds_of_datetimes() -> None:
    """What a datetime cannot hold would be refused later, where nobody knows the payload."""
    kind = {"type": "long", "logicalType": "timestamp-micros"}
    schema: Schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}
    read = compile_reader(schema)
    assert read(varint(10**15), 0) == {"a": 10**15}
    assert EPOCH + 10**15 * MICROSECOND
    with pytest.raises(PayloadError) as caught:
        read(varint(2**62), 0)
    assert caught.value.reason == "out-of-range"
