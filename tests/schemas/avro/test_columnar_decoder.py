"""Tests of the cursors: what is sound passes, so that the slow way stays rare."""

import io
from collections.abc import Mapping

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schemas.sample_events import by_fastavro, same

from tidemill.schemas.avro.columnar_decoder import LONG_LIST, compile_cursors
from tidemill.schemas.avro.cursors import PADDING
from tidemill.schemas.avro.payload_reader import PayloadReader
from tidemill.schemas.avro.payloads import Payloads, Poison
from tidemill.schemas.avro.primitives import varint
from tidemill.schemas.avro.wire import Schema, single_object_prefix

SCHEMA: Schema = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "n", "type": "long"},
        {"name": "m", "type": ["null", "long"], "default": None},
        {"name": "t", "type": "string"},
        {"name": "u", "type": ["null", "string"], "default": None},
        {"name": "v", "type": ["null", {"type": "array", "items": "string"}], "default": None},
        {"name": "w", "type": {"type": "array", "items": "string"}},
        {"name": "x", "type": "bytes"},
        {"name": "y", "type": "int"},
        *({"name": f"d{number}", "type": "double"} for number in range(9)),
        {"name": "z", "type": ["null", "float"], "default": None},
        {"name": "g", "type": {"type": "array", "items": "double"}},
        {"name": "e", "type": ["null", {"type": "array", "items": "double"}], "default": None},
    ],
}
PREFIX = single_object_prefix(SCHEMA)
PARSED = fastavro.parse_schema(dict(SCHEMA), _write_hint=False)
WALK = compile_cursors(SCHEMA)


def encoded(record: Mapping[str, object]) -> bytes:
    """Return the payload of *record*, as another implementation writes it."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, PARSED, record)
    return PREFIX + body.getvalue()


edges = st.integers(0, 63).flatmap(
    lambda bits: st.sampled_from([2**bits - 1, -(2**bits), 2**bits // 2, -(2**bits) // 2])
)
lengths = st.sampled_from([0, 1, 63, 64, 65, 8_191, 8_192, 8_193, 70_000])
texts = st.builds(lambda length, letter: letter * length, lengths, st.sampled_from("aé"))
lists = st.lists(st.sampled_from(["", "a", "b" * 64, "c" * 9_000]), max_size=4)
events = st.fixed_dictionaries(
    {
        "n": edges,
        "m": st.none() | edges,
        "t": texts,
        "u": st.none() | texts,
        "v": st.none() | lists,
        "w": lists | st.just(["x"] * LONG_LIST),
        "x": st.binary(max_size=80),
        "y": edges.filter(lambda number: -(2**31) <= number < 2**31),
        **{f"d{number}": st.floats(width=64) for number in range(9)},
        "z": st.none() | st.floats(width=32),
        "g": st.lists(st.floats(), max_size=4) | st.just([0.5] * LONG_LIST),
        "e": st.none() | st.lists(st.floats(), max_size=4),
    }
)


@settings(deadline=None)
@given(st.lists(events, min_size=1, max_size=6))
def test_whatever_an_encoder_writes_passes(records: list[dict[str, object]]) -> None:
    """Numbers and lengths change their width at powers of two: each must be walked over right."""
    payloads = Payloads.of([encoded(record) for record in records])
    read = PayloadReader(SCHEMA, PREFIX).read(payloads, np.arange(len(records)))
    assert read.slowly == 0
    assert read.refused == []
    assert same(read.frames[0].to_dicts()) == [
        same(by_fastavro((payload or b"")[len(PREFIX) :], SCHEMA)) for payload in payloads
    ]


def passes(body: bytes) -> bool:
    """Return whether the cursor of *body* alone comes to its end."""
    ends = np.array([len(body)])
    columns, passed = WALK(body + bytes(PADDING), np.array([0]), ends)
    assert columns.count == np.count_nonzero(passed)
    return bool(passed[0])


SOUND = varint(1) + b"\x00" + b"\x02a" + b"\x00" + b"\x00"
REST = b"\x00" + b"\x00" + b"\x02" + bytes(72) + b"\x00" + b"\x00" + b"\x00"
"""An empty list, no bytes, the number 1, nine doubles, no float, an empty list, no list."""
HALF = REST[:-2] + b"\x02" + bytes(8)
"""The same with a list of one double, up to the zero that ends it."""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        SOUND + REST[:-1],
        SOUND + REST + b"\x00",
        b"\x80" * 10 + SOUND[1:] + REST,
        b"\xff" * 9 + b"\x02" + SOUND[1:] + REST,
        varint(1) + b"\x04" + SOUND[2:] + REST,
        varint(1) + b"\x01" + SOUND[2:] + REST,
        varint(1) + b"\x00" + b"\x01" + SOUND[3:] + REST,
        varint(1) + b"\x00" + b"\xff\xff\xff\xff\x01" + SOUND[2:] + REST,
        varint(1) + b"\x00" + varint(2**62) + SOUND[2:] + REST,
        varint(1) + b"\x00" + b"\x02\xff" + SOUND[4:] + REST,
        varint(1) + b"\x00" + b"\x1a" + b"plain text \xff\xff" + SOUND[4:] + REST,
        SOUND + varint(LONG_LIST + 1) + b"\x00" * (LONG_LIST + 2) + REST[1:],
        SOUND + varint(-1) + varint(2) + b"\x02a" + REST,
        SOUND + varint(1) + b"\x02a" + varint(1) + b"\x02b" + REST,
        SOUND + varint(1) + b"\x02\xff" + REST,
        SOUND + REST[:2] + varint(2**31) + REST[3:],
        SOUND + HALF + b"\x01\x00",
        SOUND + HALF[:-1],
        SOUND + REST[:-2] + b"\x7e" + bytes(8),
        SOUND + REST[:-2] + varint(LONG_LIST + 1) + bytes(8 * LONG_LIST + 10),
    ],
)
def test_what_is_broken_or_rare_does_not(body: bytes) -> None:
    """The strict reader has the last word on these; here it is enough to be in doubt."""
    assert passes(SOUND + REST)
    assert passes(SOUND + HALF + b"\x00\x00")
    assert not passes(body)


@pytest.mark.parametrize("length", [12, 13, 64, 65])
def test_texts_of_any_length_come_back_beside_others(length: int) -> None:
    """Short texts lie in their view, longer ones are copied out, the longest stay in the batch."""
    texts = ["a" * length, "é", "", "b" * (length - 1) + "c"]
    none = dict.fromkeys("muvz")
    base = {**none, "n": 1, "w": ["d" * length], "x": b"", "y": 0, "g": [], "e": None}
    base |= {f"d{number}": 0.5 for number in range(9)}
    payloads = Payloads.of([encoded({**base, "t": text}) for text in texts])
    read = PayloadReader(SCHEMA, PREFIX).read(payloads, np.arange(len(texts)))
    assert read.frames[0]["t"].to_list() == texts
    assert read.frames[0]["w"].to_list() == [["d" * length]] * 4


def test_a_payload_of_another_width_leaves_its_neighbours_lists_alone() -> None:
    """Lists and nulls are read among few rows: their values must come back to the right ones."""
    base: dict[str, object] = {"n": 1, "t": "t", "x": b"", "y": 0, "z": None, "g": [], "e": None}
    base |= {f"d{number}": 0.5 for number in range(9)}
    rows = [
        {**base, "m": 5, "u": None, "v": ["a", "b"], "w": [], "g": [0.25, 0.5]},
        {**base, "m": None, "u": "u", "v": None, "w": ["c"], "e": [0.75]},
        {**base, "m": -7, "u": None, "v": [], "w": ["d", "e", "f"], "g": [1.0]},
    ]
    first, *others = [encoded(row) for row in rows]
    payloads = Payloads.of([first, first[:-1], *others])
    read = PayloadReader(SCHEMA, PREFIX).read(payloads, np.arange(4))
    assert [row for row, _ in read.refused] == [1]
    assert [numbers.tolist() for numbers in read.numbers] == [[0, 2, 3]]
    assert same(read.frames[0].to_dicts()) == [same(row) for row in rows]


def test_a_batch_sorts_its_payloads_by_prefix_in_the_order_of_the_log() -> None:
    """Offsets stay in order within a group, so frames are merged and not shuffled."""
    one, two = b"\xc3\x01aaaaaaaa", b"\x00\x00\x00\x00\x01"
    payloads = Payloads.of([two + b"x", one, None, one + b"y", two, b"?", b""])
    groups, poison = payloads.groups()
    assert {prefix: rows.tolist() for prefix, rows in groups.items()} == {one: [1, 3], two: [0, 4]}
    assert sorted(poison, key=lambda each: each.row) == [
        Poison(2, "empty", "no value"),
        Poison(5, "unknown-schema", "starts with 3f, which names no schema"),
        Poison(6, "empty", "no bytes"),
    ]
    assert list(payloads) == [two + b"x", one, None, one + b"y", two, b"?", b""]
