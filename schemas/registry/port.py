"""The port of schema registries: what encoders and decoders ask of one.

A registry maps the prefix of a payload to the schema of its writer. `schemas/avro/evolution.py`
decides what a new schema may change, in the same way for every registry.
"""

from collections.abc import Collection
from typing import Protocol

from tidemill.schemas.avro.wire import Schema


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
