"""Tests of the survey: what is sound passes, so that the slow way stays rare."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schemas.events import by_fastavro, same

from tidemill.schemas.avroblock import BlockReader
from tidemill.schemas.batch import GUARD_BYTES, Batch, Poison
from tidemill.schemas.encoders import compile_encoder
from tidemill.schemas.encoding import varint
from tidemill.schemas.survey import LONG_LIST, PADDING, compile_survey
from tidemill.schemas.wire import Schema, single_object_prefix

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
    ],
}
PREFIX = single_object_prefix(SCHEMA)
ENCODE = compile_encoder(SCHEMA, PREFIX)
SURVEY = compile_survey(SCHEMA)

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
    }
)


@settings(deadline=None)
@given(st.lists(events, min_size=1, max_size=6))
def test_whatever_an_encoder_writes_passes(records: list[dict[str, object]]) -> None:
    """Numbers and lengths change their width at powers of two: each must be walked over right."""
    batch = Batch([ENCODE(record) for record in records])
    ((prefix, rows),) = batch.groups()
    read = BlockReader(SCHEMA, prefix).read(batch, rows)
    assert read.slowly == 0
    assert read.refused == []
    assert same(read.frames[0].to_dicts()) == [
        same(by_fastavro(payload[len(PREFIX) :], SCHEMA)) for payload in batch.values
    ]


def passes(body: bytes) -> bool:
    """Return whether *body* alone passes the survey."""
    ends = np.array([len(body)])
    return bool(SURVEY(body + bytes(PADDING), np.array([0]), ends)[0])


SOUND = varint(1) + b"\x00" + b"\x02a" + b"\x00" + b"\x00" + b"\x00"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        SOUND[:-1],
        SOUND + b"\x00",
        b"\x80" * 10 + SOUND[1:],
        b"\xff" * 9 + b"\x02" + SOUND[1:],
        varint(1) + b"\x04" + SOUND[2:],
        varint(1) + b"\x01" + SOUND[2:],
        varint(1) + b"\x00" + b"\x01" + SOUND[2:],
        varint(1) + b"\x00" + b"\xff\xff\xff\xff\x01" + SOUND[2:],
        SOUND[:-1] + varint(LONG_LIST + 1) + b"\x00" * (LONG_LIST + 2),
        SOUND[:-1] + varint(-1) + varint(2) + b"\x02a" + b"\x00",
        SOUND[:-1] + varint(1) + b"\x02a" + varint(1) + b"\x02b" + b"\x00",
    ],
)
def test_what_is_broken_or_rare_does_not(body: bytes) -> None:
    """The strict reader has the last word on these; here it is enough to be in doubt."""
    assert passes(SOUND)
    assert not passes(body)


def test_a_batch_sorts_its_payloads_by_prefix_in_the_order_of_the_log() -> None:
    """Offsets stay in order within a group, so frames are merged and not shuffled."""
    one, two = b"\xc3\x01aaaaaaaa", b"\x00\x00\x00\x00\x01"
    batch = Batch([two + b"x", one, None, one + b"y", two, b"?"])
    groups = {prefix: rows.tolist() for prefix, rows in batch.groups()}
    assert groups == {one: [1, 3], two: [0, 4]}
    assert batch.poison == [
        Poison(2, "empty", "no value"),
        Poison(5, "unknown-schema", "starts with 3f, which names no schema"),
    ]


def test_every_batch_has_a_guard_of_its_own() -> None:
    """Whoever knew the guard could write a payload that carries it."""
    guards = {Batch([b"x"]).guard for _ in range(10)}
    assert len(guards) == 10
    assert {len(guard) for guard in guards} == {GUARD_BYTES}
