"""The ids of topics and of their cluster: a topic that was deleted and made anew has another one.

Kafka gives each topic a random id. aiokafka does not ask for it, so this module defines version 12
of Kafka's metadata request (KIP-516) in aiokafka's own terms. A broker before Kafka 2.8 tells no
ids.

Source: Apache Kafka, MetadataRequest.json and MetadataResponse.json.
"""

import asyncio
import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from uuid import UUID

import aiokafka
from aiokafka.errors import KafkaError
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig
from tidemill.streams.consumer.app import credentials

logger = logging.getLogger(__name__)

ASK_S = 5.0
_UNKNOWN_TOPIC = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicIdentity:
    """The id of one topic, and that of its cluster, which old brokers do not tell."""

    topic: str
    id: UUID
    cluster: str

    @property
    def number(self) -> int:
        """The topic's id as a number of 63 bits, as the lake keeps it."""
        return _number(self.id.bytes)

    @property
    def cluster_number(self) -> int:
        """The cluster's id as a number of 63 bits."""
        return _number(self.cluster.encode())


def _number(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class _Uuid(AbstractType[UUID]):  # type: ignore[misc]  # aiokafka is not typed
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS
            ),
        ),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("topic_authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _MetadataRequestStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class _MetadataRequest(Request[_MetadataRequestStruct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequestStruct]) -> _MetadataRequestStruct:
        tags: dict[int, bytes] = {}
        wanted = [(UUID(int=0), topic, tags) for topic in self._topics]
        return request_struct_class(wanted, False, False, tags)


async def topic_identities(
    consumer: aiokafka.AIOKafkaConsumer, topics: Collection[str]
) -> Mapping[str, TopicIdentity | None] | None:
    """Return the identity of each of *topics* that exists, as a broker tells it now.

    An identity is None if the broker tells no ids. The result is None if no broker answers within
    `ASK_S`: then nothing is known.
    """
    client: Any = consumer._client
    try:
        async with asyncio.timeout(ASK_S):
            answer = await client.send(client.get_random_node(), _MetadataRequest(topics))
    except NotImplementedError:  # the broker speaks none of the versions that have ids
        return dict.fromkeys(topics)
    except (KafkaError, TimeoutError, OSError) as error:
        logger.info("the ids of topics are unknown: %s", error)
        return None
    cluster = answer.cluster_id or ""
    return {
        name: TopicIdentity(topic=name, id=id_, cluster=cluster) if id_.int else None
        for error, name, id_, *_ in answer.topics
        if error != _UNKNOWN_TOPIC
    }


def read_identities(
    kafka: KafkaConfig, topics: Collection[str]
) -> Mapping[str, TopicIdentity | None]:
    """Return the identity of each of *topics* that exists, over a connection of its own.

    Raises:
        BrokerError: no broker answers.
    """
    found = asyncio.run(_read(kafka, topics))
    if found is None:
        raise BrokerError(
            f"the ids of topics could not be read at {kafka.bootstrap}: no broker answers",
            hint="check KAFKA_BOOTSTRAP_SERVERS and that the brokers are up",
        )
    return found


async def _read(
    kafka: KafkaConfig, topics: Collection[str]
) -> Mapping[str, TopicIdentity | None] | None:
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap.split(","),
        **credentials_to_aiokafka_auth(credentials(kafka), None),
    )
    try:
        async with asyncio.timeout(ASK_S):
            await consumer.start()
        return await topic_identities(consumer, topics)
    except (KafkaError, TimeoutError) as error:
        logger.info("no broker answers: %s", error)
        return None
    finally:
        await consumer.stop()
