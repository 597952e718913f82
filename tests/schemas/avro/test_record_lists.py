"""Tests of lists of records in columns, by which a decision logs the items it chose among."""

import io
from collections.abc import Mapping, Sequence

import fastavro
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schemas.sample_events import by_fastavro, same

from tidemill.errors import ContractError, RequestError
from tidemill.schemas.avro.columnar_decoder import LONG_LIST
from tidemill.schemas.avro.encoder import compile_encoder
from tidemill.schemas.avro.evolution import check_compatible, resolve, unsure_columns
from tidemill.schemas.avro.payload_reader import PayloadReader, PayloadRows
from tidemill.schemas.avro.payloads import Payloads
from tidemill.schemas.avro.primitives import varint
from tidemill.schemas.avro.scalar_decoder import compile_reader
from tidemill.schemas.avro.types import column_type
from tidemill.schemas.avro.wire import Schema, single_object_prefix

FEATURES: Schema = {
    "type": "record",
    "name": "ItemFeatures",
    "fields": [
        {"name": "price", "type": "double"},
        {"name": "age", "type": "double"},
        {"name": "stock", "type": ["null", "long"], "default": None},
        {"name": "topic", "type": "string"},
        {"name": "new", "type": "boolean"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}


def schema_of(features: Schema) -> Schema:
    """Return the schema of an event with items that have *features*, between other fields."""
    item = {
        "type": "record",
        "name": "Item",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "propensity", "type": ["null", "double"], "default": None},
            {"name": "position", "type": ["null", "int"], "default": None},
            {"name": "features", "type": features},
        ],
    }
    items = ["null", {"type": "array", "items": item}]
    return {
        "type": "record",
        "name": "Event",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "items", "type": items, "default": None},
            {"name": "score", "type": "double"},
        ],
    }


SCHEMA = schema_of(FEATURES)
PREFIX = single_object_prefix(SCHEMA)
ENCODE = compile_encoder(SCHEMA, PREFIX)
READER = PayloadReader(SCHEMA, PREFIX)

texts = st.sampled_from(["", "é", "a", "b" * 12, "c" * 13, "d" * 70])
items = st.fixed_dictionaries(
    {
        "id": texts,
        "propensity": st.none() | st.floats(),
        "position": st.none() | st.integers(-(2**31), 2**31 - 1),
        "features": st.fixed_dictionaries(
            {
                "price": st.floats(),
                "age": st.floats(),
                "stock": st.none() | st.integers(-(2**63), 2**63 - 1),
                "topic": texts,
                "new": st.booleans(),
                "tags": st.lists(texts, max_size=3),
            }
        ),
    }
)
events = st.fixed_dictionaries(
    {"id": texts, "items": st.none() | st.lists(items, max_size=5), "score": st.floats()}
)
Event = dict[str, object]


def item(number: int) -> Event:
    """Return a plain item."""
    features = {"price": 0.5, "age": 1.0, "topic": "news", "new": True, "tags": []}
    return {"id": f"article-{number}", "features": features}


def event(count: int) -> Event:
    """Return an event with *count* items."""
    return {"id": "d", "items": [item(number) for number in range(count)], "score": 0.25}


def read(payloads: Sequence[bytes], reader: PayloadReader = READER) -> PayloadRows:
    """Return what the reader makes of *payloads*."""
    return reader.read(Payloads.of(list(payloads)), np.arange(len(payloads)))


def by_others(value: Mapping[str, object]) -> bytes:
    """Return the payload of *value* as another implementation writes it."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(dict(SCHEMA)), value)
    return PREFIX + body.getvalue()


@settings(deadline=None)
@given(st.lists(events, min_size=1, max_size=6))
def test_items_are_written_and_read_as_fastavro_does(values: list[Event]) -> None:
    """Every type in every item, null and not, lists of each length beside one another."""
    payloads = [ENCODE(value) for value in values]
    assert payloads == [by_others(value) for value in values]
    rows = read(payloads)
    assert rows.slowly == 0
    assert same(rows.frames[0].to_dicts()) == [
        same(by_fastavro(payload[len(PREFIX) :], SCHEMA)) for payload in payloads
    ]


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.lists(events, min_size=1, max_size=4), st.data())
def test_a_broken_list_spoils_no_neighbour(values: list[Event], data: st.DataObject) -> None:
    """The cursors of all payloads step together, and one that is lost must stay alone."""
    payloads = [ENCODE(value) for value in values]
    sound = payloads[0]
    at = data.draw(st.integers(len(PREFIX), len(sound)))
    broken = sound[:at] + data.draw(st.binary(max_size=3)) + sound[at + 1 :]
    alone, mixed = read([broken]), read([broken, *payloads])
    assert [each.what for _, each in mixed.refused] == [each.what for _, each in alone.refused]
    rows = {
        int(number): row
        for frame, numbers in zip(mixed.frames, mixed.numbers, strict=True)
        for number, row in zip(numbers, frame.to_dicts(), strict=True)
    }
    assert [same(rows[number + 1]) for number in range(len(values))] == [same(e) for e in values]
    if not alone.refused:
        assert same(rows[0]) == same(in_frame(broken))


def in_frame(payload: bytes) -> Event:
    """Return what the strict reader makes of *payload*."""
    return compile_reader(SCHEMA)(payload, len(PREFIX))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 200, LONG_LIST])
def test_two_hundred_items_are_still_read_in_columns(count: int) -> None:
    """The default limit of a loop is 200 items, whose count takes two bytes."""
    rows = read([ENCODE(event(count)), ENCODE(event(1))])
    assert rows.slowly == 0
    found = rows.frames[0]["items"].to_list()
    assert [each["id"] for each in found[0]] == [f"article-{number}" for number in range(count)]
    assert len(found[1]) == 1


def test_more_items_than_that_are_read_one_by_one() -> None:
    """Each further item costs the batch a step, so no payload may ask for millions of them."""
    rows = read([ENCODE(event(LONG_LIST + 1)), ENCODE(event(1))])
    assert rows.slowly == 1
    assert sorted(len(row["items"]) for frame in rows.frames for row in frame.to_dicts()) == [
        1,
        LONG_LIST + 1,
    ]


def test_a_list_that_claims_more_than_the_payload_has_is_refused() -> None:
    """Three bytes must not make a reader allocate for a thousand items."""
    body = PREFIX + varint(1) + b"d" + b"\x02" + varint(LONG_LIST)
    rows = read([body, ENCODE(event(2))])
    assert [(row, each.reason) for row, each in rows.refused] == [(0, "truncated")]
    assert len(rows.frames[0]["items"][0]) == 2


def test_times_of_items_are_times_whichever_way_they_are_read() -> None:
    """An item may say when it was published; a list in two blocks is read one by one."""
    time = {"type": "long", "logicalType": "timestamp-micros"}
    schema = schema_of({**FEATURES, "fields": [{"name": "at", "type": time}]})
    encode = compile_encoder(schema)
    payload = encode({"id": "", "items": [{"id": "a", "features": {"at": 7}}], "score": 0.0})
    begin, only, end = payload[:2], payload[3:-9], payload[-9:]
    several = begin + varint(-1) + varint(len(only)) + only + end
    rows = read([payload, several], PayloadReader(schema, b""))
    assert rows.slowly == 1
    assert rows.frames[0].to_dicts() == rows.frames[1].to_dicts()
    assert rows.frames[0].schema == rows.frames[1].schema


def changed(**fields: object) -> Schema:
    """Return the schema with the types of some features of items changed; None leaves one out."""
    listed = FEATURES["fields"]
    assert isinstance(listed, list)
    kept = [
        {**each, "type": fields[each["name"]]} if each["name"] in fields else each
        for each in listed
        if fields.get(each["name"], "") is not None
    ]
    added = [
        {"name": name, "type": kind, "default": None}
        for name, kind in fields.items()
        if kind is not None and name not in {each["name"] for each in listed}
    ]
    return schema_of({**FEATURES, "fields": [*kept, *added]})


def test_features_of_items_may_come_and_go_as_others_may() -> None:
    """Each version of a loop reads the items of the other."""
    newer = changed(stock=None, colour=["null", "string"])
    check_compatible(SCHEMA, newer)
    frame = read([ENCODE(event(2)), ENCODE({"id": "e", "items": None, "score": 0.0})]).frames[0]
    resolved = resolve(frame, SCHEMA, newer)
    assert resolved.schema["items"] == column_type(field(newer, "items"))
    assert [list(each["features"]) for each in resolved["items"][0]] == [
        ["price", "age", "topic", "new", "tags", "colour"]
    ] * 2
    assert resolved["items"][1] is None
    assert resolve(resolved, newer, SCHEMA)["items"][0][0]["features"]["stock"] is None


def field(schema: Schema, name: str) -> object:
    """Return the type of the field *name* of *schema*."""
    fields = schema["fields"]
    assert isinstance(fields, list)
    return next(each["type"] for each in fields if each["name"] == name)


def test_a_feature_of_items_that_changes_its_type_is_refused_by_name() -> None:
    """Events of the first version could not be read any more."""
    with pytest.raises(ContractError, match=r"items\[\]\.features\.topic was string"):
        check_compatible(SCHEMA, changed(topic="long"))
    with pytest.raises(ContractError, match="topic is string in the event"):
        resolve(read([ENCODE(event(1))]).frames[0], SCHEMA, changed(topic="long"))


def test_what_may_be_null_in_an_item_is_known() -> None:
    """A worker of the first version must not take a null of the second for a value."""
    loose = changed(topic=["null", "string"])
    assert unsure_columns(loose, SCHEMA) == [("items", "[]", "features", "topic")]
    assert unsure_columns(SCHEMA, loose) == []


def test_a_list_of_records_with_lists_of_records_has_no_column() -> None:
    """Steps would multiply: a thousand items of a thousand each."""
    nested = {"name": "parts", "type": {"type": "array", "items": FEATURES}}
    schema = schema_of({**FEATURES, "name": "Nested", "fields": [nested]})
    assert column_type(field(schema, "items")) is None
    assert column_type(field(SCHEMA, "items")) is not None


@pytest.mark.parametrize(
    ("items", "what"),
    [
        ("ab", "items is 'ab', which is not a list of objects"),
        (7, "items is 7, which is not a list of objects"),
        ([item(1), 7], r"items\[1\] is 7, not an object"),
        ([{"id": "a"}], r"items\[0\].features is missing"),
        ([item(1), {**item(2), "id": 7}], r"items\[1\].id is 7, which is not a text"),
        ([{**item(1), "price": 1}], r"items\[0\].price is not known"),
    ],
)
def test_an_item_that_does_not_fit_is_named(items: object, what: str) -> None:
    """Among two hundred items the service's engineer needs the number of the wrong one."""
    with pytest.raises(RequestError, match=what) as caught:
        ENCODE({"id": "d", "items": items, "score": 0.0})
    assert caught.value.hint


def test_a_frame_of_items_keeps_its_rows_when_others_are_refused() -> None:
    """Rows are dropped before they become Arrow: the items must move with their event."""
    payloads = [ENCODE(event(count)) for count in (3, 0, 2, 5)]
    rows = read([payloads[0], payloads[1][:-1], payloads[2], payloads[3]])
    assert rows.numbers[0].tolist() == [0, 2, 3]
    assert rows.frames[0]["items"].list.len().to_list() == [3, 2, 5]
    assert rows.frames[0]["items"].explode().struct.field("id").to_list() == [
        f"article-{number}" for count in (3, 2, 5) for number in range(count)
    ]
    assert isinstance(rows.frames[0].schema["items"], pl.List)


@pytest.mark.parametrize(("byte", "what"), [(b"\x02", "2 for true or false"), (b"\x03", "3 for")])
def test_what_was_stepped_over_unread_still_fails(byte: bytes, what: str) -> None:
    """The step over an item ends at the right byte whatever is in it: its reader has to object."""
    sound = ENCODE(event(3))
    at = sound.rindex(b"news\x01") + 4
    rows = read([ENCODE(event(2)), sound[:at] + byte + sound[at + 1 :]])
    assert [(row, each.reason) for row, each in rows.refused] == [(1, "malformed")]
    assert what in rows.refused[0][1].what
    assert rows.numbers[0].tolist() == [0]
