"""The schema store in memory: for tests, notebooks and `Client.embedded` without Kafka."""

import threading
from collections.abc import Collection, Sequence

from tidemill.schemas.avro.evolution import check_successor
from tidemill.schemas.avro.limits import check_schema
from tidemill.schemas.avro.wire import (
    Schema,
    canonical_json,
    check_same_values,
    single_object_prefix,
)


class MemorySchemaStore:
    """A `SchemaStore` in this process."""

    def __init__(self) -> None:
        self._schemas: dict[bytes, Schema] = {}
        self._subjects: dict[str, list[Schema]] = {}
        self._lock = threading.Lock()

    def register(self, subject: str, schema: Schema) -> bytes:
        """Return the prefix of payloads written with *schema*; see `SchemaStore`."""
        check_schema(schema)
        prefix = single_object_prefix(schema)
        with self._lock:
            older = self._subjects.setdefault(subject, [])
            if all(canonical_json(schema) != canonical_json(old) for old in older):
                check_successor(subject, older, schema)
                check_same_values(self._schemas.setdefault(prefix, schema), schema, subject=subject)
                older.append(schema)
        return prefix

    def register_all(self, schemas: Sequence[tuple[str, Schema]]) -> list[bytes]:
        """Register each subject's schema, one after the other; see `SchemaStore`."""
        return [self.register(subject, schema) for subject, schema in schemas]

    def lookup(self, prefix: bytes) -> Schema | None:
        """Return the schema registered for *prefix*, or None."""
        return self._schemas.get(prefix)

    def lookup_all(self, prefixes: Collection[bytes]) -> dict[bytes, Schema]:
        """Return the schemas of the registered ones among *prefixes*."""
        return {prefix: self._schemas[prefix] for prefix in prefixes if prefix in self._schemas}
