"""Where event schemas live: a store maps the prefix of a payload to its writer's schema.

One port, three places: this process, the topic ``tidemill.schemas``, a Confluent registry.
"""

from collections.abc import Mapping

from tidemill.kafka import KafkaConfig
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


def schema_store(config: KafkaConfig, env: Mapping[str, str]) -> SchemaStore:
    """Return the registry at SCHEMA_REGISTRY_URL if *env* has it, else the topic of *config*.

    With a registry, events written before it came are still read by the schemas of the topic.

    Raises:
        ConfigError: SCHEMA_REGISTRY_URL is not an address.
    """
    topic = KafkaSchemaStore(config)
    url = env.get("SCHEMA_REGISTRY_URL", "").strip()
    return ConfluentSchemaStore(url, older=topic) if url else topic


def writer_store(config: KafkaConfig, env: Mapping[str, str]) -> SchemaStore | None:
    """Return where a writer of events gets its prefixes: a registry if *env* has one, else None.

    None: single-object prefixes follow from the schemas themselves, so no broker has to answer
    before the first event is written.

    Raises:
        ConfigError: SCHEMA_REGISTRY_URL is not an address.
    """
    return schema_store(config, env) if env.get("SCHEMA_REGISTRY_URL", "").strip() else None
