"""The shared Kafka client, on a real broker."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import aiokafka.codec
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.errors import BrokerError, ConfigError, ContractError, FencedError
from tidemill.kafka import (
    KafkaConfig,
    Record,
    Tail,
    Topic,
    TransactionalWriter,
    Writer,
    ensure_topics,
    partition_count,
    read_compacted,
    write_all,
)

NOWHERE = KafkaConfig("127.0.0.1:1")


def unique(name: str) -> str:
    """The broker is shared by the session: a name nobody else has."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def wait_for(condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
    """Return as soon as *condition* holds; fail after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def read_until(tail: Tail, count: int) -> list[Record]:
    """Read *count* records."""
    records: list[Record] = []

    def enough() -> bool:
        records.extend(tail.poll(0.1))
        return len(records) >= count

    wait_for(enough)
    return records


def test_the_environment_names_the_broker_and_its_credentials() -> None:
    """Operators configure by environment; a password must not show in a log of the config."""
    config = KafkaConfig.from_env(
        {
            "KAFKA_BOOTSTRAP_SERVERS": "broker:9093",
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_USERNAME": "mill",
            "KAFKA_SASL_PASSWORD": "secret",
        }
    )
    client = config.client(group_id="g", linger_ms=5)
    assert client["bootstrap.servers"] == "broker:9093"
    assert client["sasl.password"] == "secret"
    assert client["security.protocol"] == "SASL_SSL"
    assert client["linger.ms"] == 5
    assert "secret" not in repr(config)


@pytest.mark.parametrize("env", [{}, {"KAFKA_BOOTSTRAP_SERVERS": " "}])
def test_without_a_broker_in_the_environment_the_error_says_what_to_do(env: dict[str, str]) -> None:
    """The first error a new user meets should be the last of its kind."""
    with pytest.raises(ConfigError, match="KAFKA_BOOTSTRAP_SERVERS") as caught:
        KafkaConfig.from_env(env)
    assert "tidemill kafka" in caught.value.hint


@pytest.mark.slow
def test_a_broker_that_is_not_there_is_named_with_a_hint() -> None:
    """An operator needs the address that failed, not a librdkafka code."""
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        ensure_topics(NOWHERE, [Topic(name="any")], timeout_s=1)
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        partition_count(NOWHERE, "any", timeout_s=1)
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        write_all(NOWHERE, "any", [(b"k", b"v")], timeout_s=1)


def test_a_full_buffer_refuses_and_counts_and_never_waits() -> None:
    """Kafka away must not slow a decision: what does not fit is dropped at once and visible."""
    writer = Writer(NOWHERE, queue_messages=100)
    started = time.monotonic()
    taken = [writer.write("any", key=b"k", value=b"v") for _ in range(250)]
    assert time.monotonic() - started < 30.0
    assert taken == [True] * 100 + [False] * 150
    assert (writer.dropped, writer.failed, writer.delivered) == (150, 0, 0)
    assert writer.flush(0.01) == 100
    writer.close(timeout_s=0.01)


@pytest.mark.kafka
def test_topics_are_made_once_and_stamped_by_the_broker(kafka: KafkaConfig) -> None:
    """With the producer's time, a replay of last year is deleted after minutes."""
    name, compacted = unique("stamped"), unique("compacted")
    topics = [Topic(name=name, partitions=3), Topic(name=compacted, compacted=True)]
    ensure_topics(kafka, topics)
    ensure_topics(kafka, topics)
    assert partition_count(kafka, name) == 3
    assert partition_count(kafka, unique("absent")) is None
    admin = AdminClient(kafka.client())
    described = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, topic) for topic in (name, compacted)]
    )
    policies = {}
    for resource, future in described.items():
        settings = future.result()
        assert settings["message.timestamp.type"].value == "LogAppendTime"
        policies[resource.name] = settings["cleanup.policy"].value
    assert policies == {name: "delete", compacted: "compact"}


@pytest.mark.kafka
def test_a_topic_with_another_number_of_partitions_is_refused(kafka: KafkaConfig) -> None:
    """Keys would move between partitions, and a join would miss their other half."""
    topic = Topic(name=unique("parted"), partitions=2)
    ensure_topics(kafka, [topic])
    with pytest.raises(ContractError, match="has 2 partitions, not 3"):
        ensure_topics(kafka, [replace(topic, partitions=3)])


@pytest.mark.kafka
def test_several_makers_of_one_topic_do_not_disturb_each_other(kafka: KafkaConfig) -> None:
    """Workers of one loop start at the same moment."""
    topic = Topic(name=unique("raced"), partitions=2)
    errors: list[Exception] = []

    def make() -> None:
        try:
            ensure_topics(kafka, [topic])
        except (BrokerError, ContractError) as error:
            errors.append(error)

    makers = [threading.Thread(target=make) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert errors == []
    assert partition_count(kafka, topic.name) == 2


@pytest.mark.kafka
def test_what_is_written_is_read_from_the_beginning_and_goes_on(kafka: KafkaConfig) -> None:
    """A worker that starts late finds the newest model, and one that runs hears of the next."""
    name = unique("tailed")
    ensure_topics(kafka, [Topic(name=name, partitions=2)])
    writer = Writer(kafka)
    for number in range(100):
        assert writer.write(name, key=b"%d" % number, value=b"v", headers=[("h", b"x")])
    assert writer.flush(120) == 0
    assert (writer.delivered, writer.dropped, writer.failed) == (100, 0, 0)
    tail = Tail(kafka, name)
    assert not tail.caught_up
    records = read_until(tail, 100)
    wait_for(lambda: tail.poll(0.05) == [] and tail.caught_up)
    assert {record.key for record in records} == {b"%d" % number for number in range(100)}
    assert {record.partition for record in records} == {0, 1}
    assert all(abs(record.timestamp_ms / 1000 - time.time()) < 600 for record in records)
    writer.write(name, key=b"next", value=None)
    assert [record.value for record in read_until(tail, 1)] == [None]
    tail.close()
    writer.close()


@pytest.mark.kafka
def test_a_key_goes_where_the_java_clients_would_send_it(kafka: KafkaConfig) -> None:
    """Producers in other languages must agree on the partition, or the join finds nothing."""
    name = unique("placed")
    ensure_topics(kafka, [Topic(name=name, partitions=7)])
    write_all(kafka, name, [(b"21", b""), (b"foobar", b""), (b"a-little-bit-long-string", b"")])
    tail = Tail(kafka, name)
    found = {record.key: record.partition for record in read_until(tail, 3)}
    tail.close()
    murmur2 = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    assert found == {key: (value & 0x7FFFFFFF) % 7 for key, value in murmur2.items()}


@pytest.mark.kafka
def test_a_client_that_knows_gzip_alone_reads_all_that_is_written(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafkajs decompresses nothing else, and it has to find the schemas."""
    for codec in ("has_lz4", "has_snappy", "has_zstd"):
        monkeypatch.setattr(aiokafka.codec, codec, lambda: False)
    name = unique("read-by-others")
    ensure_topics(kafka, [Topic(name=name, partitions=1)])
    value = b"a" * 10_000
    write_all(kafka, name, [(b"all", value)])
    writer = Writer(kafka)
    writer.write(name, key=b"writer", value=value)
    writer.close()
    transactions = TransactionalWriter(kafka, unique("transactions"))
    with transactions.transaction():
        transactions.write(name, b"transaction", value)
    transactions.close()

    async def read() -> set[bytes]:
        consumer = aiokafka.AIOKafkaConsumer(
            name, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            return {(await consumer.getone()).key for _ in range(3)}
        finally:
            await consumer.stop()

    assert asyncio.run(read()) == {b"all", b"writer", b"transaction"}


@pytest.mark.kafka
def test_of_a_compacted_topic_only_the_newest_values_count(kafka: KafkaConfig) -> None:
    """A tombstone takes its key away; compaction by the broker may come at any time later."""
    name = unique("newest")
    ensure_topics(kafka, [Topic(name=name, partitions=2, compacted=True)])
    assert read_compacted(kafka, name) == {}
    write_all(kafka, name, [(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None), (b"c", b"3")])
    assert read_compacted(kafka, name) == {b"a": b"2", b"c": b"3"}


@pytest.mark.kafka
def test_a_topic_that_is_missing_is_an_error_with_a_hint(kafka: KafkaConfig) -> None:
    """Reading nothing for ever would look like an empty topic."""
    with pytest.raises(BrokerError, match="there is no topic") as caught:
        read_compacted(kafka, unique("absent"))
    assert "publish" in caught.value.hint
    with pytest.raises(BrokerError, match="not acknowledged"):
        write_all(kafka, unique("absent"), [(b"k", b"v")], timeout_s=2)


@pytest.mark.kafka
def test_a_record_the_client_refuses_is_counted_as_failed(kafka: KafkaConfig) -> None:
    """One monster must not block its neighbours, nor vanish unseen."""
    name = unique("monster")
    ensure_topics(kafka, [Topic(name=name)])
    writer = Writer(kafka)
    assert not writer.write(name, key=b"k", value=bytes(2_000_000))
    assert writer.write(name, key=b"k", value=b"v")
    assert writer.flush(120) == 0
    assert (writer.delivered, writer.failed, writer.dropped) == (1, 1, 0)
    writer.close()


@pytest.mark.kafka
def test_tail_waits_out_a_broker_that_dies(own_kafka: EmbeddedKafka) -> None:
    """A serving worker keeps its model and hears of the next one when Kafka is back."""
    ensure_topics(own_kafka.config, [Topic(name="models", compacted=True)])
    write_all(own_kafka.config, "models", [(b"k", b"1")])
    tail = Tail(own_kafka.config, "models")
    writer = Writer(own_kafka.config)
    assert [record.value for record in read_until(tail, 1)] == [b"1"]
    own_kafka.kill()
    assert tail.poll(0.2) == []
    assert writer.write("models", key=b"k", value=b"2")
    own_kafka.restart()
    assert [record.value for record in read_until(tail, 1)] == [b"2"]
    assert writer.flush(120) == 0
    assert writer.delivered == 1
    tail.close()
    writer.close()


@pytest.mark.kafka
def test_reading_a_topic_leaves_no_consumer_group_behind(kafka: KafkaConfig) -> None:
    """`tidemill lag` lists groups; a reader of a compacted topic is none."""
    name = unique("groupless")
    ensure_topics(kafka, [Topic(name=name)])
    read_compacted(kafka, name)
    admin = AdminClient(kafka.client())  # held: nobody answers for a client that is gone
    groups = admin.list_consumer_groups().result()
    assert "tidemill-tail" not in {group.group_id for group in groups.valid}


@pytest.mark.kafka
def test_a_writer_whose_name_is_taken_is_fenced_whatever_it_does_next(kafka: KafkaConfig) -> None:
    """The client says once why it has given up, and from then on only that it has."""
    topic, name = unique("fenced"), unique("writer")
    ensure_topics(kafka, [Topic(name=topic, partitions=1)])

    def write_on(old: TransactionalWriter) -> None:
        with old.transaction():
            old.write(topic, b"k", b"before")
            TransactionalWriter(kafka, name).close()
            with suppress(KafkaException):
                while True:
                    old.write(topic, b"k", b"after")
                    old._producer.flush(0.1)
            old.write(topic, b"k", b"and after that")

    with pytest.raises(FencedError, match=name):
        write_on(TransactionalWriter(kafka, name))
