"""Lag on a real broker, against Kafka's own tool for messages and the log itself for seconds."""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.monitor.lag.lags import commit, oracle, read_lag

from tidemill.cli.app import main
from tidemill.cli.tables.lag import Limits, as_document, watch_lag
from tidemill.errors import BrokerError, RequestError
from tidemill.kafka import KafkaConfig, Record, Tail, Topic, ensure_topics, write_all
from tidemill.monitor.lag import GroupLag, LagReader, PartitionLag

pytestmark = pytest.mark.kafka


def records(config: KafkaConfig, topic: str) -> dict[tuple[int, int], Record]:
    """Read a whole topic: (partition, offset) -> record."""
    tail, found = Tail(config, topic), {}
    while not tail.caught_up:
        found.update({(record.partition, record.offset): record for record in tail.poll(0.2)})
    tail.close()
    return found


@dataclass
class Read:
    """A topic of three partitions with records of several batches, and a group that read some."""

    config: KafkaConfig
    topic: str = field(default_factory=lambda: f"lag-{uuid.uuid4().hex[:12]}")
    group: str = field(default_factory=lambda: f"group-{uuid.uuid4().hex[:12]}")

    def lag(self) -> dict[int, PartitionLag]:
        """Read the lag of the group by partition."""
        (lag,) = read_lag(self.config, self.group)
        return {partition.partition: partition for partition in lag.partitions}


@pytest.fixture
def read(kafka: KafkaConfig) -> Read:
    """300 records in ten batches a few milliseconds apart; partition 2 is read to its end."""
    made = Read(kafka)
    ensure_topics(kafka, [Topic(name=made.topic, partitions=3)])
    for batch in range(10):
        write_all(kafka, made.topic, [(b"%d" % (30 * batch + n), b"v") for n in range(30)])
    ends = dict.fromkeys(range(3), 0)
    for partition, offset in records(kafka, made.topic):
        ends[partition] = max(ends[partition], offset + 1)
    commit(kafka, made.group, made.topic, {0: 17, 1: 0, 2: ends[2]})
    return made


def test_messages_are_what_kafkas_own_tool_says(read: Read) -> None:
    """Two tools that disagree are worse than one; the operator's habit is the oracle."""
    told = oracle(read.config, read.group)
    mine = {(read.topic, number): lag.messages for number, lag in read.lag().items()}
    assert mine == told
    assert mine[read.topic, 2] == 0
    commit(read.config, read.group, read.topic, {0: 16})  # negative control: it must move
    moved = read.lag()[0].messages
    assert moved == told[read.topic, 0] + 1


def test_seconds_are_the_age_of_the_first_unread_record_to_the_millisecond(read: Read) -> None:
    """An estimate from offsets is off by hours on an uneven topic."""
    log = records(read.config, read.topic)
    before_ms = time.time() * 1000
    lag = read.lag()
    after_ms = time.time() * 1000
    for partition, committed in ((0, 17), (1, 0)):
        written_ms = log[partition, committed].timestamp_ms
        assert before_ms - written_ms <= lag[partition].seconds * 1000 <= after_ms - written_ms
    assert lag[2].seconds == 0.0


def test_every_offset_of_a_log_has_its_exact_age(read: Read) -> None:
    """Batches share a time: in the middle of one, at its ends and between two."""
    log = {
        at: record for (part, at), record in records(read.config, read.topic).items() if not part
    }
    for offset in range(0, len(log), 7):
        commit(read.config, read.group, read.topic, {0: offset})
        before_ms = time.time() * 1000
        seconds = read.lag()[0].seconds
        after_ms = time.time() * 1000
        written_ms = log[offset].timestamp_ms
        assert before_ms - written_ms <= seconds * 1000 <= after_ms - written_ms


def test_what_was_deleted_unread_is_lost_not_late(read: Read) -> None:
    """Nobody will ever catch up with it: a number of its own, or the alert never ends."""
    admin = AdminClient(read.config.client())
    for future in admin.delete_records([TopicPartition(read.topic, 0, 40)]).values():
        future.result()
    lag = read.lag()[0]
    assert (lag.committed, lag.start, lag.lost) == (17, 40, 23)
    assert lag.messages == lag.end - 40
    assert oracle(read.config, read.group)[read.topic, 0] == lag.messages + 23  # it cannot tell


def test_a_group_without_members_is_listed(read: Read) -> None:
    """A worker that died is exactly what the operator is looking for."""
    found = {lag.group: lag for lag in read_lag(read.config)}
    assert found[read.group].members == 0
    assert found[read.group].messages == sum(lag.messages for lag in read.lag().values())


@pytest.fixture
def member(read: Read) -> Iterator[Consumer]:
    """A consumer that has its partitions and has committed nothing."""
    settings = read.config.client(group_id=f"{read.group}-new", enable_auto_commit=False)
    consumer = Consumer(settings)
    consumer.subscribe([read.topic])
    deadline = time.monotonic() + 300
    while not consumer.assignment():
        assert time.monotonic() < deadline
        consumer.poll(0.1)
    yield consumer
    consumer.close()


def test_a_member_that_never_committed_is_behind_by_the_whole_log(
    read: Read, member: Consumer
) -> None:
    """A worker stuck in its first batch has no offset; silence would hide it."""
    (lag,) = read_lag(read.config, f"{read.group}-new")
    assert (lag.members, lag.messages) == (1, 300)
    assert {partition.committed for partition in lag.partitions} == {None}


def test_a_topic_that_is_gone_does_not_break_the_others(read: Read) -> None:
    """Offsets of a deleted topic stay with its group for days."""
    gone = f"{read.topic}-gone"
    ensure_topics(read.config, [Topic(name=gone)])
    commit(read.config, read.group, gone, {0: 0})
    admin = AdminClient(read.config.client())
    for future in admin.delete_topics([gone]).values():
        future.result()
    assert set(read.lag()) == {0, 1, 2}


def test_a_broker_that_does_not_answer_is_an_error_and_not_an_empty_table() -> None:
    """No groups and no broker look the same, and one of them is an alarm."""
    with (
        LagReader(KafkaConfig("127.0.0.1:1"), timeout_s=1.0) as reader,
        pytest.raises(BrokerError, match="the lag could not be read at") as caught,
    ):
        reader.read()
    assert "reachable" in caught.value.hint


def test_an_unknown_group_is_an_error_with_a_hint(kafka: KafkaConfig) -> None:
    """A typing error must not look like a healthy group."""
    with pytest.raises(RequestError, match="no consumer group"):
        read_lag(kafka, f"absent-{uuid.uuid4().hex}")


def test_the_exit_status_tells_whether_a_limit_is_broken(
    read: Read, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cron and CI read only that."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", read.config.bootstrap)
    monkeypatch.setenv("COLUMNS", "160")
    worst = max(lag.messages for lag in read.lag().values())
    assert main(["lag", read.group]) == 0
    assert main(["lag", read.group, "--limit-messages", str(worst)]) == 0
    assert main(["lag", read.group, "--limit-messages", str(worst - 1)]) == 1
    assert main(["lag", read.group, "--limit-seconds", "86400"]) == 0
    assert main(["lag", read.group, "--limit-seconds", "0"]) == 1
    assert read.topic in capsys.readouterr().out
    assert main(["lag", read.group, "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["messages"] == sum(lag.messages for lag in read.lag().values())
    assert document["partitions"][0]["topic"] == read.topic


def test_watching_reads_again_until_it_is_told_to_stop(
    read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress is the difference between two readings."""
    seen = []

    def once() -> list[GroupLag]:
        seen.append(read_lag(read.config, read.group))
        commit(read.config, read.group, read.topic, {0: 18 + len(seen)})
        return seen[-1]

    limits = Limits(messages=0)
    assert watch_lag(once, limits, as_json=True, every_s=0.0, readings=3) == 1
    totals = [lags[0].messages for lags in seen]
    assert totals == [totals[0], totals[0] - 2, totals[0] - 3]
    assert as_document(seen[0], limits)[0]["over"] is True


def test_watching_goes_on_through_an_outage(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever watches an outage wants to see its end; old figures would look well."""
    outage = BrokerError("no answer", hint="start the broker")
    answers: list[list[GroupLag] | BrokerError] = [[], outage, [], outage]

    def once() -> list[GroupLag]:
        answer = answers.pop(0)
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    assert watch_lag(once, Limits(), as_json=True, every_s=0.0, readings=4) == 3
    problem = {"problem": "no answer", "hint": "start the broker"}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        [],
        problem,
        [],
        problem,
    ]


def test_a_group_that_nobody_will_join_again_is_forgotten(
    read: Read, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lag grows for ever, and hides the one that matters."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", read.config.bootstrap)
    assert main(["lag", read.group, "--forget"]) == 0
    assert main(["lag", read.group]) == 2
    assert main(["lag", read.group, "--forget"]) == 2
    assert main(["lag", "--forget"]) == 2
    assert "no consumer group" in capsys.readouterr().err


def test_a_group_that_is_read_is_not_forgotten(
    read: Read,
    member: Consumer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A typing error must not move a worker back to the start."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", read.config.bootstrap)
    assert main(["lag", f"{read.group}-new", "--forget"]) == 2
    assert "has members" in capsys.readouterr().err
