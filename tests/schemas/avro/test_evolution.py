"""Tests of schema evolution: what may change, and that changed events read as Avro says."""

import io

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schemas.sample_events import decision, everything, same

from tidemill.errors import ContractError
from tidemill.schemas.avro.encoder import compile_encoder
from tidemill.schemas.avro.evolution import check_compatible
from tidemill.schemas.avro.wire import Schema, single_object_prefix
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.events.schemas import DecisionEncoder, decision_schema
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.choose import MemorySchemaStore

VALUES: dict[str, object] = {"float": 1.5, "int": 3, "category": "x", "categories": ["a", "b"]}
DEFAULTS: dict[str, object] = {"float": 0.5, "int": -1, "category": "other", "categories": ["z"]}


def loop_of(features: dict[str, object], version: int = 1) -> Loop:
    """Return a loop with *features*."""
    return everything(loop="growing", version=version, features=features)


@st.composite
def grown(draw: st.DrawFn) -> tuple[Loop, Loop, dict[str, object]]:
    """Return a loop, a legal later version of it, and features that an event of the first has."""
    old: dict[str, object] = {}
    new: dict[str, object] = {}
    sent: dict[str, object] = {}
    for name in draw(st.lists(st.sampled_from("abcdef"), unique=True, min_size=1)):
        kind = draw(st.sampled_from(sorted(VALUES)))
        nullable = draw(st.booleans())
        old[name] = {"type": kind, "nullable": nullable}
        sent[name] = None if nullable and draw(st.booleans()) else VALUES[kind]
        if draw(st.booleans()):
            wider = "float" if kind == "int" and draw(st.booleans()) else kind
            new[name] = {"type": wider, "nullable": nullable or draw(st.booleans())}
    for name in draw(st.lists(st.sampled_from("uvwxyz"), unique=True, min_size=not new)):
        kind = draw(st.sampled_from(sorted(VALUES)))
        nullable = draw(st.booleans())
        new[name] = {"type": kind} | (
            {"nullable": True} if nullable else {"default": DEFAULTS[kind]}
        )
    order = draw(st.permutations(sorted(new)))
    return loop_of(old), loop_of({name: new[name] for name in order}, 2), sent


@settings(deadline=None)
@given(grown())
def test_an_older_event_reads_as_avro_says(case: tuple[Loop, Loop, dict[str, object]]) -> None:
    """Columns are resolved here, rows in fastavro: both follow the same rules."""
    old, new, features = case
    store = MemorySchemaStore()
    payload = DecisionEncoder(old, store).encode(decision(1, features=features))
    DecisionEncoder(new, store)
    decoded = EventDecoder(new, DECISIONS, store).decode([payload])
    assert decoded.poison == []
    writer, reader = (fastavro.parse_schema(dict(decision_schema(each))) for each in (old, new))
    expected = fastavro.schemaless_reader(io.BytesIO(payload[10:]), writer, reader)
    row = decoded.frame.drop("row").to_dicts()[0]
    assert same(row) == same(expected)
    assert list(row["features"]) == list(new.features)


@settings(deadline=None)
@given(grown())
def test_a_worker_that_is_not_restarted_yet_reads_newer_events_if_types_allow(
    case: tuple[Loop, Loop, dict[str, object]],
) -> None:
    """While a version is rolled out, old workers meet new events: what is gone is null."""
    old, new, _ = case
    store = MemorySchemaStore()
    DecisionEncoder(old, store)
    features = {name: VALUES[each.type.value] for name, each in new.features.items()}
    payload = DecisionEncoder(new, store).encode(decision(1, features=features))
    decoded = EventDecoder(old, DECISIONS, store).decode([payload])
    narrowed = [
        name
        for name, each in old.features.items()
        if name in new.features and new.features[name].type != each.type
    ]
    if narrowed:
        assert [each.reason for each in decoded.poison] == ["incompatible-schema"]
    else:
        row = decoded.frame["features"].to_list()[0]
        assert row == {name: features.get(name) for name in old.features}


def record(**fields: object) -> Schema:
    """Return a record with *fields*, each a type or a whole field."""
    listed = [
        {"name": name, **kind}
        if isinstance(kind, dict) and "default" in kind
        else {"name": name, "type": kind}
        for name, kind in fields.items()
    ]
    return {"type": "record", "name": "R", "fields": listed}


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (record(), record(a="long"), "a is new and has no default"),
        (record(a="long"), record(a="int"), "a was long and would become int"),
        (record(a="double"), record(a="long"), "a was double and would become long"),
        (record(a="string"), record(a="bytes"), "a was string and would become bytes"),
        (record(a=["null", "long"]), record(a="long"), "a was nullable"),
        (
            record(a="long"),
            record(a={"type": "long", "logicalType": "timestamp-micros"}),
            "a was long and would become timestamp-micros",
        ),
        (record(a={"type": "array", "items": "string"}), record(a="string"), "a was array"),
        (
            record(a={"type": "array", "items": "string"}),
            record(a={"type": "array", "items": "long"}),
            "a was array",
        ),
        (record(a=["null", "long", "string"]), record(a=["null", "string", "long"]), "a was union"),
        (record(a=record(b="long")), record(a=record(b="string")), "a.b was long"),
        (record(), {**record(), "name": "S"}, "R cannot become S"),
    ],
)
def test_a_change_that_breaks_older_events_is_refused(old: Schema, new: Schema, what: str) -> None:
    """The message names the field; the hint says what to do instead."""
    with pytest.raises(ContractError, match=what) as caught:
        check_compatible(old, new)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (record(a="long"), record()),
        (record(), record(a={"type": "long", "default": 0})),
        (record(a="int"), record(a="long")),
        (record(a="int"), record(a=["null", "double"])),
        (record(a=["null", "long"]), record(a=["double", "null"])),
        (record(a={"type": "array", "items": "int"}), record(a={"type": "array", "items": "long"})),
        (record(a="long", b="string"), record(b="string", a="long")),
        (
            record(a="long"),
            {**record(), "fields": [{"name": "b", "aliases": ["a"], "type": "long"}]},
        ),
    ],
)
def test_a_change_that_avro_can_bridge_is_taken(old: Schema, new: Schema) -> None:
    """Refusing more than needed would push people to new loops instead of new versions."""
    check_compatible(old, new)


def test_a_null_where_none_may_be_is_poison() -> None:
    """A producer with a schema of its own may leave an id out; the join could never use it."""
    loop = everything()
    schema = decision_schema(loop)
    fields = schema["fields"]
    assert isinstance(fields, list)
    loose: Schema = {
        **schema,
        "fields": [{"name": "id", "type": ["null", "string"], "default": None}, *fields[1:]],
    }
    store = MemorySchemaStore()
    prefix = store.register("x", loose)
    encode = compile_encoder(loose)
    payloads = [prefix + encode(decision(1, id=name)) for name in ("a", None, "b")]
    decoded = EventDecoder(loop, DECISIONS, store).decode(payloads)
    assert [(each.row, each.reason) for each in decoded.poison] == [(1, "wrong-type")]
    assert decoded.frame["id"].to_list() == ["a", "b"]


def test_fields_of_types_that_have_no_columns_are_stepped_over() -> None:
    """Another service may add a map for itself; its events are slow to read, and they are read."""
    loop = everything()
    schema = decision_schema(loop)
    fields = schema["fields"]
    assert isinstance(fields, list)
    kinds = [
        {"type": "map", "values": "string"},
        {"type": "enum", "name": "E", "symbols": ["A", "B"]},
        ["null", "string", {"type": "array", "items": {"type": "array", "items": "int"}}],
        {"type": "fixed", "name": "F", "size": 4},
    ]
    more = [{"name": f"more_{i}", "type": kind} for i, kind in enumerate(kinds)]
    wider: Schema = {**schema, "fields": [*fields, *more]}
    store = MemorySchemaStore()
    prefix = store.register("x", wider)
    assert prefix == single_object_prefix(wider)
    out = io.BytesIO()
    base = DecisionEncoder(loop, MemorySchemaStore()).encode(decision(1))[10:]
    extra = {"more_0": {"k": "v"}, "more_1": "B", "more_2": [[1], []], "more_3": b"1234"}
    more_schema = fastavro.parse_schema({"type": "record", "name": "M", "fields": more})
    fastavro.schemaless_writer(out, more_schema, extra)
    decoded = EventDecoder(loop, DECISIONS, store).decode([prefix + base + out.getvalue()])
    assert decoded.poison == []
    assert decoded.slowly_read == 1
    assert decoded.frame["id"].to_list() == ["d000001"]
