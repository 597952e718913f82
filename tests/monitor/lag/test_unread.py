"""What is unread where offsets and times mislead: transactions, truncation, clocks, rights."""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic
from tests.monitor.lag.lags import commit, oracle, read_lag

from tidemill.cli.app import main
from tidemill.deploy.local.jars import cache_dir
from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.deploy.local.kafka_settings import free_port, with_logins
from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig
from tidemill.monitor.lag import PartitionLag
from tidemill.testing.kafka import START_S

pytestmark = pytest.mark.kafka


@dataclass
class OneLog:
    """A topic of one partition whose producers set the time, and a group that read some of it."""

    config: KafkaConfig
    topic: str = field(default_factory=lambda: f"unread-{uuid.uuid4().hex[:12]}")
    group: str = field(default_factory=lambda: f"group-{uuid.uuid4().hex[:12]}")

    def create(self, **settings: str) -> None:
        """Make the topic."""
        new = NewTopic(self.topic, num_partitions=1, replication_factor=1, config=settings)
        admin = AdminClient(self.config.client())
        for future in admin.create_topics([new]).values():
            future.result()

    def write(self, *ages_s: float, producer: Producer | None = None) -> None:
        """Write one record of each age, in this order, in a batch."""
        now_ms = int(time.time() * 1000)
        producer = producer or Producer(self.config.client())
        for age_s in ages_s:
            producer.produce(self.topic, b"v", timestamp=now_ms - int(age_s * 1000))
        assert producer.flush(60) == 0

    @contextmanager
    def transaction(self) -> Iterator[Producer]:
        """Begin a transaction, and abort it if the block has not ended it."""
        producer = Producer(self.config.client(transactional_id=uuid.uuid4().hex))
        producer.init_transactions(60)
        producer.begin_transaction()
        yield producer
        with suppress(KafkaException):
            producer.abort_transaction(60)

    def lag(self, committed: int, config: KafkaConfig | None = None) -> PartitionLag:
        """Return the lag of a group that has committed *committed*."""
        commit(self.config, self.group, self.topic, {0: committed})
        (lag,) = read_lag(config or self.config, self.group)
        return lag.partitions[0]


@pytest.fixture
def log(kafka: KafkaConfig) -> OneLog:
    """A log whose times are those of its producers."""
    made = OneLog(kafka)
    made.create(**{"message.timestamp.type": "CreateTime"})
    return made


def test_a_marker_is_no_message_and_has_no_age(log: OneLog) -> None:
    """A group that has read everything would be alarmed about for ever."""
    with log.transaction() as producer:
        log.write(5.0, 4.0, producer=producer)
        producer.commit_transaction(60)
    lag = log.lag(2)  # behind the last record, before the marker
    assert (lag.messages, lag.seconds, lag.status, lag.end) == (0, 0.0, "OK", 3)
    assert not lag.messages_at_most
    lag = log.lag(1)
    assert lag.messages == 1
    assert lag.seconds >= 4.0


def test_aborted_records_at_the_end_are_no_messages(log: OneLog) -> None:
    """Nobody will ever read them."""
    log.write(50.0)
    for _ in range(3):
        with log.transaction() as producer:
            log.write(*[40.0] * 20, producer=producer)
    lag = log.lag(1)
    assert (lag.messages, lag.seconds, lag.end) == (0, 0.0, 64)
    lag = log.lag(0)
    assert lag.messages == 1
    assert 50.0 <= lag.seconds < 600.0


def test_an_open_transaction_is_told_with_what_it_hides(log: OneLog) -> None:
    """A producer that hangs holds up every reader of committed records."""
    log.write(30.0)
    with log.transaction() as producer:
        log.write(*[20.0] * 17, producer=producer)
        lag = log.lag(1)
        assert (lag.status, lag.open_txn, lag.messages, lag.seconds) == ("OPEN_TXN", 17, 17, 0.0)
        assert lag.messages == oracle(log.config, log.group)[log.topic, 0]
        lag = log.lag(0)
        assert (lag.status, lag.open_txn, lag.messages) == ("OPEN_TXN", 17, 18)
        assert 30.0 <= lag.seconds < 600.0


def test_an_offset_past_the_end_is_ahead_and_a_finding(
    log: OneLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A topic made anew: its next 490 records would be passed over, and the lag said 0."""
    log.write(*[1.0] * 10)
    lag = log.lag(500)
    assert (lag.status, lag.messages, lag.seconds) == ("AHEAD", -490, 0.0)
    assert lag.messages == oracle(log.config, log.group)[log.topic, 0]
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", log.config.bootstrap)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["lag", log.group]) == 1
    assert "AHEAD 490" in capsys.readouterr().out
    assert main(["lag", log.group, "--json"]) == 1
    (document,) = json.loads(capsys.readouterr().out)
    assert (document["ahead"], document["messages"]) == (490, 0)
    assert document["partitions"][0]["status"] == "AHEAD"


def test_the_oldest_of_records_out_of_order_is_found(log: OneLog) -> None:
    """Producers with their own clock: the first unread record is not the oldest."""
    log.write(200.0, 121.0, 5021.0, 60.0, 3.0)
    lag = log.lag(1)
    assert (lag.messages, lag.seconds_at_least) == (4, False)
    assert 5021.0 <= lag.seconds < 5621.0


def test_a_long_lag_is_a_bound_where_producers_set_the_time(log: OneLog) -> None:
    """Reading a million records every five seconds would be a load of its own."""
    log.write(*[9.0] * 12_000)
    lag = log.lag(0)
    assert (lag.messages, lag.messages_at_most, lag.seconds_at_least) == (12_000, True, True)
    assert 9.0 <= lag.seconds < 600.0


def test_a_long_lag_has_an_exact_age_where_the_broker_sets_the_time(kafka: KafkaConfig) -> None:
    """Tidemill's own topics: the first record is the oldest."""
    log = OneLog(kafka)
    log.create(**{"message.timestamp.type": "LogAppendTime"})
    log.write(*[9.0] * 12_000)
    lag = log.lag(0)
    assert (lag.messages, lag.messages_at_most, lag.seconds_at_least) == (12_000, True, False)
    assert 0.0 <= lag.seconds < 600.0


def user(port: int, name: str, password: str = "secret") -> KafkaConfig:
    """Return how a user of `guarded` logs in."""
    return KafkaConfig(
        f"127.0.0.1:{port}",
        {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": name,
            "sasl.password": password,
        },
    )


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[KafkaConfig, int]]:
    """A broker with ACLs, and the port where users log in; without a login, all is allowed."""
    port = free_port()
    users = {"clerk": "secret", "stranger": "secret"}
    broker = EmbeddedKafka(
        cache=cache_dir(os.environ), more=partial(with_logins, port=port, users=users)
    )
    broker.start(timeout_s=START_S)
    yield broker.config, port
    broker.close()


@pytest.fixture
def seen(guarded: tuple[KafkaConfig, int]) -> OneLog:
    """A log with a marker that clerk may DESCRIBE, with its group, and not READ."""
    made = OneLog(guarded[0])
    made.create(**{"message.timestamp.type": "CreateTime"})
    made.write(100.0, 2.0)
    with made.transaction() as producer:
        made.write(900.0, producer=producer)
        producer.commit_transaction(60)
    allow(made.config, "clerk", ResourceType.TOPIC, made.topic)
    allow(made.config, "clerk", ResourceType.GROUP, made.group)
    return made


def allow(config: KafkaConfig, name: str, kind: ResourceType, resource: str) -> None:
    """Give a user the right to DESCRIBE."""
    rule = AclBinding(
        kind,
        resource,
        ResourcePatternType.LITERAL,
        f"User:{name}",
        "*",
        AclOperation.DESCRIBE,
        AclPermissionType.ALLOW,
    )
    admin = AdminClient(config.client())
    for future in admin.create_acls([rule]).values():
        future.result()


def test_without_the_right_to_read_figures_are_bounds(
    seen: OneLog, guarded: tuple[KafkaConfig, int]
) -> None:
    """What cannot be known is said to be a bound, and what DESCRIBE gives is given."""
    clerk = user(guarded[1], "clerk")
    lag = seen.lag(1, clerk)
    assert (lag.messages, lag.messages_at_most, lag.seconds_at_least) == (3, True, True)
    assert 0.0 < lag.seconds <= 900.0 + 600.0
    lag = seen.lag(1)  # with the right to read
    assert (lag.messages, lag.messages_at_most, lag.seconds_at_least) == (2, False, False)
    assert lag.seconds >= 900.0


def test_a_user_who_may_see_nothing_is_told_so(
    seen: OneLog, guarded: tuple[KafkaConfig, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty table and status 0 look like a cluster that is well."""
    stranger = user(guarded[1], "stranger")
    with pytest.raises(BrokerError, match="shows no consumer group to stranger") as caught:
        read_lag(stranger)
    assert "DESCRIBE" in caught.value.hint
    commit(seen.config, seen.group, seen.topic, {0: 1})
    with pytest.raises(BrokerError, match=r"(?i)authoriz") as caught:
        read_lag(stranger, seen.group)
    assert "ACL" in caught.value.hint
    name_user(monkeypatch, guarded[1], "stranger", "secret")
    assert main(["lag"]) == 3


def test_a_wrong_password_is_called_one(
    guarded: tuple[KafkaConfig, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever looks at the broker first looks in the wrong place."""
    name_user(monkeypatch, guarded[1], "clerk", "wrong")
    assert main(["lag"]) == 3
    told = capsys.readouterr().err
    assert "the login of the user clerk is refused" in told
    assert "KAFKA_SASL_PASSWORD" in told


def name_user(monkeypatch: pytest.MonkeyPatch, port: int, name: str, password: str) -> None:
    """Set the environment of commands."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{port}")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", name)
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", password)
