"""The port of schema stores: what encoders and decoders ask of one.

`avro/evolution.py` decides what a new schema may change, in the same way for every store.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from tidemill.schemas.avro.wire import Schema


class SchemaStore(Protocol):
    """Registers and looks up schemas; safe to share among threads."""

    def register(self, subject: str, schema: Schema) -> bytes:
        """Register *schema*; return the prefix of its payloads once readers can look it up.

        Registering a schema twice changes nothing.

        Raises:
            ContractError: *schema* is beyond `limits`, or older events of *subject* could not be
                read with it.
            BrokerError: the store does not answer.
        """

    def register_all(self, schemas: Sequence[tuple[str, Schema]]) -> list[bytes]:
        """Register each subject's schema as `register` does, together if the store can do that."""

    def lookup(self, prefix: bytes) -> Schema | None:
        """Return the schema of payloads that start with *prefix*, or None if nobody registered it.

        It finds every schema that was registered before the call.

        Raises:
            BrokerError: the store does not answer.
        """

    def lookup_all(self, prefixes: Collection[bytes]) -> dict[bytes, Schema]:
        """Return the schemas of the registered ones among *prefixes*, with one request."""
