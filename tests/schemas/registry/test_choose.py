"""The contract of schema stores, run on each of them, and what only one of them can do."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.schemas.loops import minimal
from tests.schemas.registry.confluent_server import Registry, running_registry
from tests.schemas.sample_events import decision, everything

from tidemill.errors import BrokerError, ConfigError, ContractError
from tidemill.kafka import KafkaConfig, read_compacted, write_all
from tidemill.schemas import topics
from tidemill.schemas.avro.wire import CONFLUENT, SINGLE_OBJECT, Schema, single_object_prefix
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.events.schemas import DecisionEncoder, event_schemas
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Feature, FieldType
from tidemill.schemas.published import register
from tidemill.schemas.registry.choose import (
    ConfluentSchemaStore,
    KafkaSchemaStore,
    MemorySchemaStore,
    SchemaStore,
    schema_store,
)

NOWHERE = KafkaConfig("127.0.0.1:1")
Again = Callable[[], SchemaStore]


@pytest.fixture
def registry() -> Iterator[tuple[str, Registry]]:
    """A registry of our own that speaks Confluent's protocol."""
    with running_registry() as running:
        yield running


@pytest.fixture
def memory() -> Again:
    """The same store again: memory has nowhere else to look."""
    store = MemorySchemaStore()
    return lambda: store


@pytest.fixture
def on_kafka(kafka: KafkaConfig) -> Again:
    """Stores that know nothing yet but the broker."""
    return lambda: KafkaSchemaStore(kafka)


@pytest.fixture
def confluent(registry: tuple[str, Registry]) -> Again:
    """Stores that know nothing yet but the registry."""
    return lambda: ConfluentSchemaStore(registry[0])


@pytest.fixture(params=["memory", "confluent", pytest.param("on_kafka", marks=pytest.mark.kafka)])
def again(request: pytest.FixtureRequest) -> Again:
    """A function that opens each implementation of the port anew."""
    chosen: Again = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def subject() -> str:
    """A subject that no other test has."""
    return f"loop-{uuid.uuid4().hex[:8]}.decisions/R"


def record(*fields: tuple[str, object], name: str = "R") -> Schema:
    """Return a record schema; a field of None is nullable text."""
    listed = [
        {"name": field, "type": ["null", "string"], "default": None}
        if kind is None
        else {"name": field, "type": kind}
        for field, kind in fields
    ]
    space = f"tidemill.t{uuid.uuid4().hex[:8]}" if name == "R" else "tidemill.t"
    return {"type": "record", "name": name, "namespace": space, "fields": listed}


def with_field(schema: Schema, name: str, kind: object, **more: object) -> Schema:
    """Return *schema* with one field more."""
    fields = schema["fields"]
    assert isinstance(fields, list)
    return {**schema, "fields": [*fields, {"name": name, "type": kind, **more}]}


def test_what_was_registered_is_found_by_its_prefix(again: Again, subject: str) -> None:
    """A reader that starts later has nothing but the first bytes of a payload."""
    schema = record(("a", "long"))
    prefix = again().register(subject, schema)
    assert again().lookup(prefix) == schema
    assert again().lookup_all([prefix, b"\xc3\x01unknown!", b"\x00\x7f\x00\x00\x00"]) == {
        prefix: schema
    }


def test_registering_again_changes_nothing(again: Again, subject: str) -> None:
    """Every process registers when it starts."""
    schema = record(("a", "long"))
    assert again().register(subject, schema) == again().register(subject, schema)


def test_nobody_knows_a_prefix_that_nobody_registered(again: Again) -> None:
    """An unknown schema is an answer; an exception would stop the worker."""
    store = again()
    store.register(f"loop-{uuid.uuid4().hex[:8]}.decisions/R", record(("a", "long")))
    for prefix in (b"\xc3\x01\x00\x00\x00\x00\x00\x00\x00\x00", b"\x00\x7f\x00\x00\x00"):
        assert store.lookup(prefix) is None


def test_a_schema_that_makes_older_events_unreadable_is_refused(again: Again, subject: str) -> None:
    """The lake keeps events for years; a field that cannot be filled would end that."""
    first = record(("a", "long"))
    again().register(subject, first)
    for later in (
        with_field(first, "b", "string"),
        {**first, "fields": record(("a", "int"))["fields"]},
    ):
        with pytest.raises(ContractError) as caught:
            again().register(subject, later)
        assert caught.value.hint


def test_a_schema_that_older_events_can_be_read_with_is_taken(again: Again, subject: str) -> None:
    """Loops grow: a nullable field, a default, a wider number."""
    first = record(("a", "int"))
    second = with_field(first, "b", ["null", "string"], default=None)
    third = {**second, "fields": [{"name": "a", "type": "double"}]}
    prefixes = [again().register(subject, schema) for schema in (first, second, third)]
    assert len(set(prefixes)) == 3
    assert again().lookup_all(prefixes) == dict(zip(prefixes, (first, second, third), strict=True))


def test_a_schema_that_differs_in_a_logical_type_alone_is_refused(
    again: Again, subject: str
) -> None:
    """Microseconds and milliseconds would have one prefix, and one of them would be misread."""
    micros = record(("a", {"type": "long", "logicalType": "timestamp-micros"}))
    prefix = again().register(subject, micros)
    if prefix.startswith(b"\x00"):
        pytest.skip("a registry gives each schema a number of its own")
    for kind in ("long", {"type": "long", "logicalType": "timestamp-millis"}):
        later = {**micros, "fields": [{"name": "a", "type": kind}]}
        with pytest.raises(ContractError, match="same fingerprint"):
            again().register(f"{subject}-of-others", later)
    assert again().lookup(prefix) == micros


def test_older_than_the_newest_counts_too(again: Again, subject: str) -> None:
    """A field may go, but not come back as something else: the lake still has the first ones."""
    first = record(("a", "long"), ("b", "long"))
    second = {**first, "fields": [{"name": "a", "type": "long"}]}
    again().register(subject, first)
    again().register(subject, second)
    with pytest.raises(ContractError, match="b was long and would become string"):
        again().register(subject, with_field(second, "b", "string", default=""))


def test_a_schema_that_could_crash_readers_is_refused(again: Again, subject: str) -> None:
    """A few bytes of a list of nulls are billions of items; a recursive record is a deep stack."""
    bomb = with_field(record(("a", "long")), "b", {"type": "array", "items": "null"})
    with pytest.raises(ContractError, match="no size"):
        again().register(subject, bomb)


def test_events_travel_by_any_store(again: Again) -> None:
    """The wire format is the store's business alone: encoder and decoder do not know it."""
    loop = everything(loop=f"loop-{uuid.uuid4().hex[:8]}")
    payload = DecisionEncoder(loop, again()).encode(decision(7))
    decoded = EventDecoder(loop, DECISIONS, again()).decode([payload])
    assert decoded.poison == []
    assert decoded.frame["id"].to_list() == ["d000007"]


def test_an_older_event_gets_the_default_of_a_newer_loop(again: Again) -> None:
    """Version 2 of a loop must read what version 1 wrote, also through a store."""
    name = f"loop-{uuid.uuid4().hex[:8]}"
    old = everything(loop=name, features={"n": "int"})
    new = everything(
        loop=name,
        version=2,
        features={
            "n": "float",
            "country": Feature(type=FieldType.CATEGORY, default="other"),
            "hint": Feature(type=FieldType.FLOAT, nullable=True),
        },
    )
    payload = DecisionEncoder(old, again()).encode(decision(1, features={"n": 3}))
    DecisionEncoder(new, again())
    decoded = EventDecoder(new, DECISIONS, again()).decode([payload])
    assert decoded.frame["features"].to_list() == [{"n": 3.0, "country": "other", "hint": None}]


@pytest.mark.kafka
def test_another_language_needs_only_the_key_and_value_of_a_record(
    kafka: KafkaConfig, subject: str
) -> None:
    """The topic is a published interface: subject, fingerprint as on the wire, schema as JSON."""
    schema = record(("a", "long"))
    prefix = KafkaSchemaStore(kafka).register(subject, schema)
    records = read_compacted(kafka, topics.SCHEMAS)
    assert json.loads(records[f"{subject}/{prefix[2:].hex()}".encode()]) == schema


@pytest.mark.kafka
def test_records_that_lie_or_are_no_schema_are_passed_over(
    kafka: KafkaConfig, subject: str
) -> None:
    """One stray record on a shared topic must not blind every worker."""
    store = KafkaSchemaStore(kafka)
    schema = record(("a", "long"))
    prefix = store.register(subject, schema)
    lie = json.dumps(record(("a", "string"))).encode()
    for key, value in ((b"x/y", b"{"), (b"\xff\xfe", b"[1]"), (b"s/0102030405060708", lie)):
        write_all(kafka, topics.SCHEMAS, [(key, value)])
    fresh = KafkaSchemaStore(kafka)
    assert fresh.lookup(prefix) == schema
    assert fresh.lookup(b"\xc3\x01\x01\x02\x03\x04\x05\x06\x07\x08") is None


@pytest.mark.slow
def test_a_store_that_does_not_answer_says_so(tmp_path: Path) -> None:
    """Unknown and unreachable are different: the one is poison, the other is a pause."""
    prefix = single_object_prefix(record(("a", "long")))
    with pytest.raises(BrokerError):
        KafkaSchemaStore(NOWHERE, timeout_s=0.5).lookup(prefix)
    with pytest.raises(BrokerError, match="does not answer"):
        ConfluentSchemaStore("http://127.0.0.1:1").lookup(b"\x00\x00\x00\x00\x01")


@pytest.mark.parametrize(
    "answer", [(500, {"error_code": 50001}), (200, b"<html>"), (200, [1]), (503, b"")]
)
def test_a_registry_that_answers_nonsense_is_an_outage(
    registry: tuple[str, Registry], answer: tuple[int, object]
) -> None:
    """A proxy's error page must not send good events to the dead letters."""
    url, held = registry
    held.broken = answer
    with pytest.raises(BrokerError, match="answers"):
        ConfluentSchemaStore(url).lookup(b"\x00\x00\x00\x00\x01")


def test_what_the_registry_itself_refuses_is_the_contracts_fault(
    registry: tuple[str, Registry],
) -> None:
    """Its own compatibility level may be stricter than ours."""
    url, held = registry
    store = ConfluentSchemaStore(url)
    schema = record(("a", "long"))
    store.register("t/R", schema)
    held.broken = (409, {"error_code": 409, "message": "incompatible"})
    with pytest.raises(ContractError, match="incompatible"):
        store.register("t/R", with_field(schema, "b", "string", default=""))


def test_subjects_in_a_registry_are_topic_and_record(registry: tuple[str, Registry]) -> None:
    """TopicRecordNameStrategy: Confluent's own serialisers can be told to use the same names."""
    url, held = registry
    loop = everything()
    store = ConfluentSchemaStore(url)
    for name, schema in event_schemas(loop).items():
        assert store.register(name, schema)[:1] == CONFLUENT
    assert "all-types.decisions-tidemill.all_types.Decision" in held.subjects
    assert "all-types.feedback-tidemill.all_types.Feedback_paid" in held.subjects


def test_the_subject_of_a_kind_names_the_topic_of_its_stream(
    registry: tuple[str, Registry],
) -> None:
    """A serialiser of another language makes the name of the topic that it writes to."""
    url, held = registry
    bought = {"within": "7d", "stream": "orders"}
    loop = minimal(feedback={"bought": bought, "left": {"within": "1h"}})
    register(loop, ConfluentSchemaStore(url))
    assert "banner.feedback.orders-tidemill.banner.Feedback_bought" in held.subjects
    assert "banner.feedback-tidemill.banner.Feedback_left" in held.subjects


def test_a_registry_is_asked_once_for_each_number(registry: tuple[str, Registry]) -> None:
    """A flood of junk must not become a flood of requests."""
    url, held = registry
    prefix = ConfluentSchemaStore(url).register("t/R", record(("a", "long")))
    store = ConfluentSchemaStore(url)
    held.requests.clear()
    for _ in range(5):
        store.lookup_all([prefix, b"\x00\x00\x00\x03\xe7"])
    assert sorted(held.requests) == ["GET /schemas/ids/1", "GET /schemas/ids/999"]


def test_user_and_password_of_the_url_are_sent_and_not_shown(
    registry: tuple[str, Registry],
) -> None:
    """Hosted registries want them, logs do not."""
    url, held = registry
    store = ConfluentSchemaStore(url.replace("//", "//key:se%20cret@"))
    assert store.lookup(b"\x00\x00\x00\x00\x01") is None
    assert held.authorization == "Basic a2V5OnNlIGNyZXQ="
    held.broken = (500, {})
    with pytest.raises(BrokerError) as caught:
        store.lookup(b"\x00\x00\x00\x00\x02")
    assert "cret" not in str(caught.value)


def test_events_from_before_the_registry_stay_readable(registry: tuple[str, Registry]) -> None:
    """The backlog in the topics was framed with fingerprints."""
    topic = MemorySchemaStore()
    loop = everything()
    old = DecisionEncoder(loop, topic).encode(decision(1))
    store = ConfluentSchemaStore(registry[0], older=topic)
    new = DecisionEncoder(loop, store).encode(decision(2))
    decoded = EventDecoder(loop, DECISIONS, store).decode([old, new])
    assert decoded.frame["id"].to_list() == ["d000001", "d000002"]


def test_the_environment_chooses_the_store() -> None:
    """One variable switches the wire format of a whole installation."""
    assert isinstance(schema_store(NOWHERE, {}), KafkaSchemaStore)
    url = {"SCHEMA_REGISTRY_URL": "http://registry:8081"}
    assert isinstance(schema_store(NOWHERE, url), ConfluentSchemaStore)
    with pytest.raises(ConfigError, match="SCHEMA_REGISTRY_URL"):
        schema_store(NOWHERE, {"SCHEMA_REGISTRY_URL": "registry:8081"})


class CountingStore(KafkaSchemaStore):
    """A store that counts how often it has read the whole topic."""

    readings = 0

    def _refresh(self) -> None:
        self.readings += 1
        super()._refresh()


@pytest.mark.kafka
def test_a_flood_of_unknown_prefixes_reads_the_topic_once_and_hides_nothing_new(
    kafka: KafkaConfig, subject: str
) -> None:
    """Junk must not slow the worker; the schema registered a moment ago must not be junk."""
    writer, reader = KafkaSchemaStore(kafka), CountingStore(kafka)
    writer.register(subject, record(("a", "long")))
    for number in range(20):
        assert reader.lookup(SINGLE_OBJECT + number.to_bytes(8, "big")) is None
    assert reader.readings == 1
    for number in range(3):
        schema = record((f"a{number}", "long"))
        prefix = single_object_prefix(schema)
        assert reader.lookup(prefix) is None
        writer.register(f"{subject}{number}", schema)
        assert reader.lookup(prefix) == schema
    assert reader.readings == 4
