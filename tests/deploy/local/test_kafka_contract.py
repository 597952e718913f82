"""What tests may expect of a Kafka of ours, whether it runs in Docker or as a child process."""

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tidemill.deploy.local.jars import cache_dir
from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.errors import ConfigError, ContractError, TidemillError
from tidemill.kafka import (
    KafkaConfig,
    Tail,
    Topic,
    TransactionalWriter,
    ensure_topics,
    partition_count,
    read_compacted,
    write_all,
)
from tidemill.testing.docker import DockerKafka, why_no_docker
from tidemill.testing.kafka import START_S, Broker, new_broker, running_kafka
from tidemill.testing.missing import unavailable


@pytest.fixture(scope="module", params=["embedded", "docker"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker of each kind in turn; a machine without Docker says so."""
    if request.param == "docker" and (why := why_no_docker()):
        pytest.skip(why)
    made: Broker = (
        DockerKafka() if request.param == "docker" else EmbeddedKafka(cache=cache_dir(os.environ))
    )
    try:
        made.start(timeout_s=START_S)
    except TidemillError as error:
        unavailable("Kafka", error)
    yield made
    made.close()


@pytest.mark.kafka
def test_only_what_is_committed_is_read(broker: Broker) -> None:
    """Workers write in transactions; a broker that cannot end one would stop every test."""
    ensure_topics(broker.config, [Topic(name="committed")])
    writer = TransactionalWriter(broker.config, "contract")
    with suppress(KeyboardInterrupt), writer.transaction():
        writer.write("committed", b"k", b"undone")
        raise KeyboardInterrupt
    with writer.transaction():
        writer.write("committed", b"k", b"done")
    writer.close()
    assert values(broker.config, "committed", 1) == [b"done"]


def values(kafka: KafkaConfig, topic: str, count: int) -> list[bytes | None]:
    """Read until *count* records have come."""
    tail = Tail(kafka, topic, timeout_s=120.0)
    found: list[bytes | None] = []
    while len(found) < count or not tail.caught_up:
        found += [record.value for record in tail.poll(0.1)]
    tail.close()
    return found


@pytest.mark.kafka
def test_topics_have_the_partitions_that_were_asked_for(broker: Broker) -> None:
    """No topic comes by itself, and none is changed silently."""
    assert partition_count(broker.config, "wide") is None
    ensure_topics(broker.config, [Topic(name="wide", partitions=6)])
    assert partition_count(broker.config, "wide") == 6
    with pytest.raises(ContractError):
        ensure_topics(broker.config, [Topic(name="wide", partitions=4)])


@pytest.mark.kafka
def test_a_restart_keeps_the_address_and_the_data(broker: Broker) -> None:
    """Clients find the broker where it was, and in it what was acknowledged."""
    before = broker.config
    ensure_topics(before, [Topic(name="kept", compacted=True)])
    write_all(before, "kept", [(b"k", b"v")])
    broker.restart()
    assert broker.config == before
    assert read_compacted(before, "kept") == {b"k": b"v"}


@pytest.mark.kafka
def test_the_fixture_takes_docker_where_its_engine_answers(kafka: KafkaConfig) -> None:
    """*kafka* skips where none can be started."""
    made = new_broker(os.environ)
    assert isinstance(made, DockerKafka) == (why_no_docker() is None)
    assert partition_count(made.config, "absent") is None
    made.close()


def test_one_broker_is_not_shared_by_several_test_workers() -> None:
    """The shared topics have fixed names: tests of one worker would read those of another."""
    env = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "PYTEST_XDIST_WORKER_COUNT": "2"}
    with pytest.raises(ConfigError, match="several test workers"), running_kafka(env):
        pass
