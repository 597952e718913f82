"""The schema store on the compacted topic ``tidemill.schemas``; it needs Kafka only.

A record's key is ``<subject>/<fingerprint>``, with the fingerprint in hex in the byte order of the
wire; its value is the schema as JSON. A service in another language needs no more than that.
"""

import json
import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tidemill.errors import ContractError
from tidemill.kafka import (
    BadRecords,
    KafkaConfig,
    Record,
    Topic,
    TopicEnds,
    ensure_topics,
    read_values,
    write_all,
)
from tidemill.schemas import topics
from tidemill.schemas.avro.evolution import check_successor
from tidemill.schemas.avro.limits import check_schema
from tidemill.schemas.avro.wire import (
    SINGLE_OBJECT,
    Schema,
    canonical_json,
    check_same_values,
    single_object_prefix,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """One record of the topic: the schema of *subject* with the prefix of its payloads."""

    subject: str
    prefix: bytes
    schema: Schema

    @property
    def key(self) -> bytes:
        """The key of its record."""
        return f"{self.subject}/{self.prefix[len(SINGLE_OBJECT) :].hex()}".encode()


def parse_schema(record: Record) -> RegisteredSchema:
    """Return the schema that *record* registers.

    Raises:
        ContractError: its value is no Avro schema, or its key not the fingerprint of its value.
        ValueError: its value is no JSON, or its key no text.
    """
    subject, _, fingerprint = (record.key or b"").decode().rpartition("/")
    schema = json.loads(record.value or b"")
    prefix = single_object_prefix(schema)
    if prefix[len(SINGLE_OBJECT) :].hex() != fingerprint:
        raise ContractError(
            "the key is not the fingerprint of the value", hint="see docs/guide/contracts.md"
        )
    return RegisteredSchema(subject, prefix, schema)


class KafkaSchemaStore:
    """A `SchemaStore` on a compacted topic; it caches what it has read.

    Records that register no schema are passed over and reported to *bad*.
    """

    def __init__(
        self, config: KafkaConfig, *, timeout_s: float = 30.0, bad: BadRecords | None = None
    ) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._bad = bad or BadRecords()
        self._subjects: dict[str, dict[bytes, Schema]] = {}
        self._known: dict[bytes, Schema] = {}
        self._ends = TopicEnds(config, topics.SCHEMAS)
        self._read_to: tuple[int, ...] | None = None  # the ends before the last read
        self._lock = threading.Lock()

    def register(self, subject: str, schema: Schema) -> bytes:
        """Register *schema*; return the prefix of its payloads once it is on the topic.

        If two writers register incompatible schemas, the later one is refused.

        Raises:
            ContractError: *schema* is beyond `limits`, older events of *subject* could not be read
                with it, or it differs from another one in a logical type alone.
            BrokerError: Kafka does not answer.
        """
        return self.register_all([(subject, schema)])[0]

    def register_all(self, schemas: Sequence[tuple[str, Schema]]) -> list[bytes]:
        """Register all of *schemas*, by subject, or none; the topic is read twice in all.

        Raises:
            ContractError, BrokerError: as `register`.
        """
        for _, schema in schemas:
            check_schema(schema)
        wanted = [RegisteredSchema(name, single_object_prefix(one), one) for name, one in schemas]
        with self._lock:
            if any(map(self._is_missing, wanted)):
                ensure_topics(self._config, [Topic(name=topics.SCHEMAS, compacted=True)])
                self._refresh()
                self._add_all([each for each in wanted if self._is_missing(each)])
        return [each.prefix for each in wanted]

    def _is_missing(self, wanted: RegisteredSchema) -> bool:
        return self._subjects.get(wanted.subject, {}).get(wanted.prefix) != wanted.schema

    def _add_all(self, missing: Sequence[RegisteredSchema]) -> None:
        """Write the *missing* schemas once all are checked, also against each other."""
        older, known = dict[str, list[Schema]](), dict(self._known)
        for each in missing:
            before = older.setdefault(
                each.subject, [*self._subjects.get(each.subject, {}).values()]
            )
            check_successor(each.subject, before, each.schema)
            same = known.setdefault(each.prefix, each.schema)
            check_same_values(same, each.schema, subject=each.subject)
            before.append(each.schema)
        if missing:
            items = [(each.key, canonical_json(each.schema).encode()) for each in missing]
            write_all(self._config, topics.SCHEMAS, items)
            self._refresh()
            for each in missing:
                self._withdraw_unless_first(each)

    def _withdraw_unless_first(self, written: RegisteredSchema) -> None:
        """Check again: another writer may have registered a schema after our read."""
        earlier = []
        for prefix, other in self._subjects.get(written.subject, {}).items():
            if prefix == written.prefix:
                break
            earlier.append(other)
        try:
            check_successor(written.subject, earlier, written.schema)
        except ContractError:
            write_all(self._config, topics.SCHEMAS, [(written.key, None)])
            self._refresh()
            raise

    def lookup(self, prefix: bytes) -> Schema | None:
        """Return the schema of payloads that start with *prefix*, or None; see `SchemaStore`."""
        return self.lookup_all([prefix]).get(prefix)

    def lookup_all(self, prefixes: Collection[bytes]) -> dict[bytes, Schema]:
        """Return the schemas of the registered ones among *prefixes*; read the topic at most once.

        If a prefix is not in the cache, the ends of the topic are requested, and the topic is read
        again only if it has grown. So many unknown prefixes cost one request per batch, and every
        schema that was registered before the call is found.

        Raises:
            BrokerError: a prefix is not in the cache and Kafka does not answer.
        """
        with self._lock:
            unknown = (prefix for prefix in prefixes if prefix not in self._known)
            if any(prefix.startswith(SINGLE_OBJECT) for prefix in unknown):
                ends = self._ends.read(self._timeout_s)
                if ends != self._read_to or not ends:
                    self._refresh()
                    self._read_to = ends
            return {prefix: self._known[prefix] for prefix in prefixes if prefix in self._known}

    def _refresh(self) -> None:
        """Read the topic to its end: the schemas of each subject are in the order of the log."""
        subjects: dict[str, dict[bytes, Schema]] = {}
        log = read_values(self._config, topics.SCHEMAS, parse_schema, timeout_s=self._timeout_s)
        self._bad.report(topics.SCHEMAS, log.bad)
        for each in log.values:
            subjects.setdefault(each.subject, {})[each.prefix] = each.schema
        self._subjects = subjects
        self._known = {}
        for name, schemas in subjects.items():
            for prefix, schema in schemas.items():
                self._add(name, prefix, schema)

    def _add(self, subject: str, prefix: bytes, schema: Schema) -> None:
        """Add *schema*, unless an earlier one of this *prefix* means other values."""
        try:
            check_same_values(self._known.setdefault(prefix, schema), schema, subject=subject)
        except ContractError as error:
            logger.warning("schema ignored: %s", error.what)
