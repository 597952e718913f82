"""Which schema store a process uses: the topic ``tidemill.schemas``, or a Confluent registry."""

from collections.abc import Mapping

from tidemill.kafka import BadRecords, KafkaConfig
from tidemill.schemas.registry.confluent import ConfluentSchemaStore
from tidemill.schemas.registry.kafka import KafkaSchemaStore
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.schemas.registry.port import SchemaStore

__all__ = [
    "ConfluentSchemaStore",
    "KafkaSchemaStore",
    "MemorySchemaStore",
    "SchemaStore",
    "schema_store",
    "writer_store",
]


def schema_store(
    config: KafkaConfig, env: Mapping[str, str], bad: BadRecords | None = None
) -> SchemaStore:
    """Return the registry at SCHEMA_REGISTRY_URL if *env* has it, else the topic of *config*.

    With a registry, events written before it was set up are still read by the schemas of the topic.
    Bad records of the topic are reported to *bad*.

    Raises:
        ConfigError: SCHEMA_REGISTRY_URL is not an HTTP address.
    """
    topic = KafkaSchemaStore(config, bad=bad)
    url = env.get("SCHEMA_REGISTRY_URL", "").strip()
    return ConfluentSchemaStore(url, older=topic) if url else topic


def writer_store(config: KafkaConfig, env: Mapping[str, str]) -> SchemaStore | None:
    """Return the store from which a writer of events gets prefixes: the registry of *env*, or None.

    None: single-object prefixes are computed from the schemas, so no broker has to answer before
    the first event is written.

    Raises:
        ConfigError: SCHEMA_REGISTRY_URL is not an HTTP address.
    """
    return schema_store(config, env) if env.get("SCHEMA_REGISTRY_URL", "").strip() else None
