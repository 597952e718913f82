"""The port of schema stores, and the one in memory.

A store maps the prefix of a payload to its writer's schema. What a new schema may change is decided
in `evolution.py`, the same way for all stores.
"""

import threading
from collections.abc import Collection
from typing import Protocol

from tidemill.schemas.avro.evolution import check_successor
from tidemill.schemas.avro.limits import check_schema
from tidemill.schemas.avro.wire import Schema, canonical_json, single_object_prefix


class SchemaStore(Protocol):
    """What encoders and decoders ask for; safe to share between threads."""

    def register(self, subject: str, schema: Schema) -> bytes:
        """Return the prefix of payloads written with *schema*, once readers can find it.

        Registering the same schema again changes nothing.

        Raises:
            ContractError: *schema* is not fit for events, or what *subject* had before forbids it.
            BrokerError: the store does not answer.
        """

    def lookup(self, prefix: bytes) -> Schema | None:
        """Return the schema of payloads that start with *prefix*, or None if nobody registered it.

        What was registered before the call is found.

        Raises:
            BrokerError: the store does not answer, so it cannot be told.
        """

    def lookup_all(self, prefixes: Collection[bytes]) -> dict[bytes, Schema]:
        """Return the schemas of those *prefixes* that are known, for the price of one lookup."""


class MemorySchemaStore:
    """Keeps schemas in this process; for tests, notebooks and `Client.embedded` without Kafka."""

    def __init__(self) -> None:
        self._schemas: dict[bytes, Schema] = {}
        self._subjects: dict[str, list[Schema]] = {}
        self._lock = threading.Lock()

    def register(self, subject: str, schema: Schema) -> bytes:
        """Return the prefix of payloads written with *schema*; see `SchemaStore`."""
        check_schema(schema)
        prefix = single_object_prefix(schema)
        with self._lock:
            had = self._subjects.setdefault(subject, [])
            if all(canonical_json(schema) != canonical_json(old) for old in had):
                check_successor(subject, had, schema)
                had.append(schema)
                self._schemas.setdefault(prefix, schema)
        return prefix

    def lookup(self, prefix: bytes) -> Schema | None:
        """Return the schema registered for *prefix*, or None."""
        return self._schemas.get(prefix)

    def lookup_all(self, prefixes: Collection[bytes]) -> dict[bytes, Schema]:
        """Return the schemas of those *prefixes* that are known."""
        return {prefix: self._schemas[prefix] for prefix in prefixes if prefix in self._schemas}
