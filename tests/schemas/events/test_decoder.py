"""Tests of the decoding of batches: every payload in one place, and neighbours untouched."""

import io
import random
import struct
import tracemalloc
from collections.abc import Callable, Collection
from typing import cast

import fastavro
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from tests.schemas.sample_events import (
    Event,
    by_fastavro,
    decision,
    decision_payloads,
    decisions,
    everything,
    feedback_payload,
    same,
)

from tidemill.errors import BrokerError, PayloadError
from tidemill.schemas.avro.primitives import varint
from tidemill.schemas.avro.scalar_decoder import compile_reader
from tidemill.schemas.avro.wire import MAX_PAYLOAD_BYTES, Schema, single_object_prefix
from tidemill.schemas.events.decoder import Decoded, EventDecoder, Poison
from tidemill.schemas.events.schemas import (
    CIRCUMSTANCES,
    DecisionEncoder,
    FeedbackEncoder,
    decision_schema,
    event_schemas,
)
from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.schemas.registry.choose import MemorySchemaStore

LOOP = everything()
STORE = MemorySchemaStore()
SCHEMA = decision_schema(LOOP)
ENCODER = DecisionEncoder(LOOP, STORE)
DECODER = EventDecoder(LOOP, DECISIONS, STORE)
FEEDBACK_DECODER = EventDecoder(LOOP, FEEDBACK, STORE)
PREFIX = len(single_object_prefix(SCHEMA))
STRICTLY = compile_reader(SCHEMA)
PAYLOADS = decision_payloads(LOOP, 50)


def rows(decoded: Decoded) -> dict[int, object]:
    """Return every row of the frame by its number."""
    return {row.pop("row"): same(row) for row in decoded.frame.to_dicts()}


def verdicts(decoded: Decoded) -> dict[int, object]:
    """Return what became of every payload: its row, or its reason."""
    poison = {each.row: (each.reason, each.detail) for each in decoded.poison}
    good = rows(decoded)
    assert not good.keys() & poison.keys()
    return good | poison


@settings(deadline=None)
@given(st.lists(decisions, max_size=8))
def test_a_batch_is_what_fastavro_reads_one_by_one(events: list[Event]) -> None:
    """The fast way must not be another way: same values for every type, null and not."""
    payloads = [ENCODER.encode(event) for event in events]
    decoded = DECODER.decode(payloads)
    assert decoded.poison == []
    assert decoded.frame.schema == {"row": pl.UInt32, **DECODER.frame_schema}
    expected = [same(by_fastavro(payload[PREFIX:], SCHEMA)) for payload in payloads]
    assert list(rows(decoded).values()) == expected


def broken(payload: bytes, chance: random.Random) -> bytes:
    """Return *payload* changed in one of the ways that happen, or that somebody may try."""
    at = chance.randrange(PREFIX, len(payload) + 1)
    other = chance.choice(PAYLOADS)
    match chance.randrange(7):
        case 0:
            return payload[:at]
        case 1:
            return payload + chance.randbytes(chance.randrange(1, 12))
        case 2:
            return payload[:at] + chance.randbytes(1) + payload[at + 1 :]
        case 3:
            return payload[:at] + chance.randbytes(chance.randrange(12)) + payload[at:]
        case 4:
            number = chance.choice([2**62, -1, 2**31, 200, -(2**63), 2**20])
            return payload[:at] + varint(number) + payload[at:]
        case 5:
            return payload[:at] + other[chance.randrange(PREFIX, len(other)) :]
        case _:
            return payload[:PREFIX] + chance.randbytes(chance.randrange(200))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_what_becomes_of_a_payload_does_not_depend_on_its_neighbours(
    chance: random.Random, count: int
) -> None:
    """Batches are cut by the network: one broken payload may spoil neither others nor replays."""
    batch = [chance.choice(PAYLOADS) for _ in range(count)]
    changed = {row: broken(batch[row], chance) for row in range(count) if chance.random() < 0.25}
    mixed = [changed.get(row, payload) for row, payload in enumerate(batch)]
    expected = {row: same(by_fastavro(batch[row][PREFIX:], SCHEMA)) for row in range(count)}
    for row, payload in changed.items():
        expected[row] = verdicts(DECODER.decode([payload]))[0]
    assert verdicts(DECODER.decode(mixed)) == expected


@settings(deadline=None, max_examples=300)
@given(st.randoms(use_true_random=False))
def test_the_fast_way_accepts_nothing_that_the_strict_reader_refuses(
    chance: random.Random,
) -> None:
    """Polars takes -1 for a branch and 7 for true: a verdict must not depend on who looked."""
    payload = broken(chance.choice(PAYLOADS), chance)
    decoded = DECODER.decode([payload])
    refusal = refusal_of(payload)
    assert [each.reason for each in decoded.poison] == ([refusal] if refusal else [])
    if not refusal:
        assert list(rows(decoded).values()) == [same(by_fastavro(payload[PREFIX:], SCHEMA))]


def refusal_of(payload: bytes) -> str | None:
    """Return why the strict reader refuses *payload*, or None."""
    try:
        STRICTLY(payload, PREFIX)
    except PayloadError as error:
        return error.reason
    return None


def crafted(**changes: object) -> bytes:
    """Return a payload that ends before a nullable list of texts, the last feature but one."""
    event = decision(1, **changes)
    features = event["features"]
    assert isinstance(features, dict)
    names = list(LOOP.features)
    assert names[-2:] == ["maybe_categories", "maybe_timestamp"]
    return ENCODER.encode(event)[: -2 - len(CIRCUMSTANCES)]


FULL = crafted()
BAD: dict[str, tuple[bytes | None, str]] = {
    "tombstone": (None, "empty"),
    "no bytes": (b"", "empty"),
    "one byte": (b"\xc3", "unknown-schema"),
    "no prefix": (b"hello world", "unknown-schema"),
    "prefix cut": (PAYLOADS[0][:7], "unknown-schema"),
    "another fingerprint": (b"\xc3\x01" + bytes(8) + PAYLOADS[0][10:], "unknown-schema"),
    "a registry's number": (b"\x00\x00\x00\x00\x07" + PAYLOADS[0][10:], "unknown-schema"),
    "prefix alone": (PAYLOADS[0][:PREFIX], "truncated"),
    "truncated": (PAYLOADS[0][:-1], "truncated"),
    "overlong": (PAYLOADS[0] + b"\x00", "overlong"),
    "oversize": (ENCODER.encode(decision(1, entity="x" * MAX_PAYLOAD_BYTES)), "oversize"),
    "another record": (feedback_payload(LOOP, "clicked", STORE), "wrong-type"),
    "huge length": (PAYLOADS[0][:PREFIX] + varint(2**62) + PAYLOADS[0], "truncated"),
    "negative length": (PAYLOADS[0][:PREFIX] + varint(-5) + PAYLOADS[0], "malformed"),
    "endless varint": (PAYLOADS[0][:PREFIX] + b"\x80" * 200, "malformed"),
    "varint beyond 64 bits": (PAYLOADS[0][:PREFIX] + b"\xff" * 9 + b"\x7f", "malformed"),
    "text that is no UTF-8": (PAYLOADS[0][:PREFIX] + b"\x04\xff\xfe" + PAYLOADS[0], "malformed"),
    "negative branch": (FULL + b"\x01\x00", "malformed"),
    "branch too high": (FULL + b"\x04\x00", "malformed"),
    "huge list": (FULL + b"\x02" + varint(2**60) + b"\x00", "truncated"),
    "huge negative list": (FULL + b"\x02" + varint(-(2**60)) + b"\x02\x00", "truncated"),
    "least negative list": (FULL + b"\x02" + varint(-(2**63)) + b"\x02\x00", "truncated"),
    "list of negative size": (FULL + b"\x02" + varint(-1) + b"\x01" + b"\x00\x00\x00", "malformed"),
    "list without end": (FULL + b"\x02\x02\x02a", "truncated"),
    "time after the year 9999": (
        ENCODER.encode(decision(1, at=0)).replace(
            b"\x0ed000001\x00", b"\x0ed000001" + varint(2**62)
        ),
        "out-of-range",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_payload_is_poison_and_says_why(name: str) -> None:
    """The reason is what an operator sees in the dead letters."""
    payload, reason = BAD[name]
    decoded = DECODER.decode([PAYLOADS[1], payload, PAYLOADS[2]])
    assert [(each.row, each.reason) for each in decoded.poison] == [(1, reason)]
    assert decoded.poison[0].detail
    assert_frame_equal(
        decoded.frame.drop("row"), DECODER.decode([PAYLOADS[1], PAYLOADS[2]]).frame.drop("row")
    )


def test_no_bad_payload_takes_much_memory_or_a_word_on_stderr(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Length fields are the producer's to choose, memory and logs are ours."""
    payloads = [payload for name, (payload, _) in BAD.items() if name != "oversize"]
    DECODER.decode(payloads)
    tracemalloc.start()
    for payload in payloads:
        DECODER.decode([payload])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert capfd.readouterr().err == ""


def test_legal_but_rare_forms_of_a_list_are_read() -> None:
    """Java's blocking encoder writes lists in several blocks, each with its size: no poison."""
    many = [f"tag {i}" for i in range(200)]
    two_blocks = b"\x02" + b"\x02\x02a" + b"\x01\x04\x02b" + b"\x00" + b"\x00"
    two_blocks += bytes(len(CIRCUMSTANCES))
    base = decision(1)["features"]
    assert isinstance(base, dict)
    features = {**base, "maybe_categories": many}
    decoded = DECODER.decode([FULL + two_blocks, ENCODER.encode(decision(1, features=features))])
    lists = decoded.frame["features"].struct.field("maybe_categories").to_list()
    assert lists == [["a", "b"], many]


def test_nan_and_infinity_are_values() -> None:
    """A feature that could not be computed is no reason to lose the decision."""
    scores = [float("nan"), float("inf"), float("-inf"), -0.0]
    payloads = [ENCODER.encode(decision(1, score=score)) for score in scores]
    back = DECODER.decode(payloads).frame["score"].to_list()
    assert [struct.pack("<d", score) for score in back] == [
        struct.pack("<d", score) for score in scores
    ]


def test_one_bad_payload_does_not_send_its_batch_the_slow_way() -> None:
    """Reading 20,000 payloads singly takes half a second: that would be a lever for anybody."""
    payloads = decision_payloads(LOOP, 2_000)
    for bad in (payloads[77][:-1], BAD["text that is no UTF-8"][0]):
        payloads[77] = bad or b""
        decoded = DECODER.decode(payloads)
        assert [each.row for each in decoded.poison] == [77]
        assert decoded.slowly_read <= 32


INNOCENT = "abc\x04xy"
"""An id that reads as another one, "xy", to a reader that starts four bytes late."""


def shifting() -> list[bytes]:
    """Return feedback of which the first is four bytes short, enough to shift its neighbour."""
    encoder = FeedbackEncoder(LOOP, STORE)

    def paid(name: str) -> bytes:
        event = {"id": name, "decision_id": "d1", "at": 10**15, "values": {"amount": 1.0}}
        return encoder.encode("paid", event)

    return [paid("first")[:-4], paid(INNOCENT), paid("last")]


def test_a_short_payload_does_not_shift_its_neighbour() -> None:
    """A shifted neighbour is silent: it would be a sound row that nobody ever sent."""
    decoded = EventDecoder(LOOP, FEEDBACK, STORE).decode(shifting())
    assert [(each.row, each.reason) for each in decoded.poison] == [(0, "truncated")]
    assert decoded.frame["id"].to_list() == [INNOCENT, "last"]


def test_feedback_of_all_kinds_comes_in_one_frame_in_order() -> None:
    """Kinds share a topic, and the join wants them side by side in the order of the log."""
    payloads = [
        feedback_payload(LOOP, "paid", STORE, amount=1.5),
        feedback_payload(LOOP, "clicked", STORE),
        feedback_payload(LOOP, "told", STORE, value_int=3, value_categories=["x"]),
        PAYLOADS[0],
        feedback_payload(LOOP, "paid", STORE, amount=2.5),
    ]
    decoded = FEEDBACK_DECODER.decode(payloads)
    assert decoded.poison == [
        Poison(3, "wrong-type", "tidemill.all_types.Decision is no event of this topic")
    ]
    assert decoded.frame["row"].to_list() == [0, 1, 2, 4]
    assert decoded.frame["kind"].to_list() == ["paid", "clicked", "told", "paid"]
    values = decoded.frame["values"].to_list()
    assert [each["amount"] for each in values] == [1.5, None, None, 2.5]
    assert values[2]["value_categories"] == ["x"]
    assert decoded.frame.schema == {"row": pl.UInt32, **FEEDBACK_DECODER.frame_schema}


def test_a_batch_of_nothing_has_the_columns_of_any_other() -> None:
    """Who writes frames to the lake must not meet a special case."""
    for payloads in ([], [None], [b""]):
        frame = DECODER.decode(payloads).frame
        assert frame.height == 0
        assert frame.schema == {"row": pl.UInt32, **DECODER.frame_schema}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda schema: {**schema, "name": "Invoice"}, "wrong-type"),
        (
            lambda schema: {
                **schema,
                "fields": [
                    *schema["fields"],
                    {"name": "more", "type": ["null", f"{schema['namespace']}.Decision"]},
                ],
            },
            "recursive-schema",
        ),
        (
            lambda schema: {
                **schema,
                "fields": [
                    *schema["fields"],
                    {"name": "bomb", "type": {"type": "array", "items": "null"}},
                ],
            },
            "malformed-schema",
        ),
        (lambda schema: {**schema, "fields": schema["fields"][1:]}, "incompatible-schema"),
        (
            lambda schema: {
                **schema,
                "fields": [{"name": "id", "type": "bytes"}, *schema["fields"][1:]],
            },
            "incompatible-schema",
        ),
    ],
)
def test_payloads_of_a_schema_that_must_not_be_used_are_poison(
    change: Callable[[dict[str, object]], dict[str, object]], reason: str
) -> None:
    """Whoever may write to the schema topic must not be able to stop or crash a worker."""
    schema = change(dict(SCHEMA))
    prefix = single_object_prefix(schema)
    decoder = EventDecoder(LOOP, DECISIONS, _Fixed({prefix: schema}))
    decoded = decoder.decode([prefix + bytes(50), PAYLOADS[0]])
    assert [each.reason for each in decoded.poison] == [reason, "unknown-schema"]


def changed(field: str, **types: object) -> dict[str, object]:
    """Return the decision schema of LOOP with other *types* of fields of its record *field*."""
    fields = [dict(each) for each in cast(list[dict[str, object]], SCHEMA["fields"])]
    record = next(each for each in fields if each["name"] == field)
    inner = cast(dict[str, list[dict[str, object]]], record["type"])
    listed = [
        {"name": each["name"], "type": types.get(str(each["name"]), each["type"])}
        for each in inner["fields"]
    ]
    record["type"] = {**inner, "fields": listed}
    return {**SCHEMA, "fields": fields}


def written(schema: dict[str, object], event: dict[str, object]) -> bytes:
    """Return *event* as any writer with *schema* would write it."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), event)
    return single_object_prefix(schema) + buffer.getvalue()


def test_a_null_where_the_loop_allows_none_is_poison_at_any_depth() -> None:
    """A row without a feature that must be there would be learned from as if it were one."""
    schema = changed("features", float_=["null", "double"], category_=["null", "string"])
    events = [decision(number) for number in range(4)]
    for event, name in zip(events[1:3], ("float_", "category_"), strict=True):
        cast(dict[str, object], event["features"])[name] = None
    decoder = EventDecoder(LOOP, DECISIONS, _Fixed({single_object_prefix(schema): schema}))
    decoded = decoder.decode([written(schema, event) for event in events])
    assert decoded.frame["row"].to_list() == [0, 3]
    assert [(each.row, each.reason) for each in decoded.poison] == [
        (1, "wrong-type"),
        (2, "wrong-type"),
    ]
    assert decoded.poison[0].detail == "null in one of features.float_, features.category_"


@pytest.mark.parametrize(
    ("types", "detail"),
    [
        (
            {"categories_": {"type": "array", "items": "long"}},
            "features.categories_ is array of long in the event, which no column can hold",
        ),
        (
            {"float_": {"type": "map", "values": "double"}},
            "features.float_ is map of double in the event, which no column can hold",
        ),
        (
            {"int_": {"type": "enum", "name": "Color", "symbols": ["RED"]}},
            "features.int_ is enum Color in the event, which no column can hold",
        ),
        (
            {"timestamp_": {"type": "long", "logicalType": "timestamp-millis"}, "more": "x"},
            "timestamp_ is long (timestamp-millis) in the event and timestamp-micros here",
        ),
        ({"float_": "boolean"}, "float_ is boolean in the event and double here"),
    ],
)
def test_why_a_schema_does_not_fit_is_told_in_the_terms_of_the_event(
    types: dict[str, object], detail: str
) -> None:
    """`unable to find column "features"` sends people to look for a field that is there."""
    schema = changed("features", **types)
    schema["fields"] = [*cast(list[object], schema["fields"]), {"name": "own", "type": "string"}]
    prefix = single_object_prefix(schema)
    decoded = EventDecoder(LOOP, DECISIONS, _Fixed({prefix: schema})).decode([prefix + b"x"])
    (poison,) = decoded.poison
    assert (poison.reason, poison.detail.splitlines()[0]) == ("incompatible-schema", detail)


def test_a_schema_of_the_same_fingerprint_does_not_replace_that_of_the_loop() -> None:
    """A fingerprint does not cover logical types, and anybody may write to the schema topic."""
    fields = [
        {**each, "type": "long"} if each["name"] == "at" else each
        for each in cast(list[dict[str, object]], SCHEMA["fields"])
    ]
    plain = {**SCHEMA, "fields": fields}
    prefix = single_object_prefix(plain)
    assert PAYLOADS[0].startswith(prefix)
    decoded = EventDecoder(LOOP, DECISIONS, _Fixed({prefix: plain})).decode(PAYLOADS[:40])
    assert decoded.poison == []
    assert decoded.frame.height == 40


def test_a_time_in_nanoseconds_is_told_as_that() -> None:
    """Four of five languages count nanoseconds, and the year 56000 tells nobody."""
    plain = {**SCHEMA, "fields": [
        {**each, "type": "long"} if each["name"] == "at" else each
        for each in cast(list[dict[str, object]], SCHEMA["fields"])
    ]}  # fmt: skip
    payload = written(plain, {**decision(1), "at": 1_767_225_600_000_000_000})
    (poison,) = DECODER.decode([payload]).poison
    assert poison.reason == "out-of-range"
    assert "is it in nanoseconds" in poison.detail


class _Fixed(MemorySchemaStore):
    """A store that answers with what it is given, checked or not."""

    def __init__(self, schemas: dict[bytes, dict[str, object]]) -> None:
        super().__init__()
        self._schemas.update(schemas)


class _Away(MemorySchemaStore):
    """A store that does not answer."""

    def lookup_all(self, prefixes: Collection[bytes]) -> dict[bytes, Schema]:
        """Fail as Kafka would."""
        raise BrokerError("away", hint="wait")


def test_an_outage_of_the_store_is_no_poison() -> None:
    """Good events would end in the dead letters because something else was down."""
    with pytest.raises(BrokerError):
        EventDecoder(LOOP, DECISIONS, _Away()).decode(PAYLOADS)


def test_all_schemas_of_a_loop_have_columns() -> None:
    """A type without columns would send every event of a loop the slow way, unseen."""
    for payload in (PAYLOADS[0], feedback_payload(LOOP, "told", STORE)):
        decoder = DECODER if payload is PAYLOADS[0] else FEEDBACK_DECODER
        assert decoder.decode([payload]).slowly_read == 0
    assert len(event_schemas(LOOP)) == 4
