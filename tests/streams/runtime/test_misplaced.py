"""Feedback with the right keys and another partitioner, on a real broker: named, then refused."""

from pathlib import Path

import duckdb
import pytest
from confluent_kafka import KafkaError, Message, Producer
from tests.streams.rig import START, Rig, assert_exact, new_rig, until
from tests.streams.runtime.test_worker import SECOND

from tidemill.features.audit.audit import audit
from tidemill.features.sql.views import schema_name, views
from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics
from tidemill.schemas.partitioner import partition_of
from tidemill.streams.runtime.worker import EXIT_REFUSED

pytestmark = pytest.mark.kafka


def feed_by_default(rig: Rig, ids: list[str]) -> int:
    """Send feedback as librdkafka does by default; return how much of it is misplaced."""
    plain = Producer({"bootstrap.servers": rig.kafka.bootstrap})
    sent: list[bool] = []

    def report(_error: KafkaError | None, message: Message) -> None:
        sent.append(partition_of(message.key() or b"", 4) != message.partition())

    producer, topic = rig.producer(), topics.feedback(rig.loop.loop)
    for id_ in ids:
        value = producer.click(id_, START + SECOND)
        plain.produce(topic, value, id_.encode(), on_delivery=report)
    assert plain.flush(60) == 0
    return sum(sent)


def test_feedback_of_another_partitioner_is_misplaced_and_then_refused(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """281 of 400 decisions ended as negatives, their feedback as `unmatched`, without a word.

    What came before there is enough to be sure has a state of its own, in the ledger, in SQL and
    for the audit; the log names the client's setting.
    """
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    producer = rig.producer()
    first = [f"d{number}" for number in range(80)]
    for id_ in first:
        producer.decide(id_, START)
    producer.flush()
    misplaced = feed_by_default(rig, first)
    assert 0 < misplaced < 80
    with rig.worker() as worker:
        rig.close(START + 60 * SECOND)
        until(rig.is_done, "everything is closed")
        until(lambda: rig.metric(worker, "tidemill_stream_misplaced_total"), "the metric")
        assert rig.metric(worker, "tidemill_stream_misplaced_total") == misplaced
    assert sum(account.ends.get("misplaced", 0) for account in rig.accounts()) == misplaced
    assert sum(account.ends.get("unmatched", 0) for account in rig.accounts()) == 0
    assert_exact(rig)
    assert audit(rig.lake, rig.loop.loop).agrees
    with duckdb.connect() as connection:
        views(rig.lake, [rig.loop], connection)
        name = f'"{schema_name(rig.loop.loop)}".feedback_states'
        found = connection.execute(f"SELECT state, count(*) FROM {name} GROUP BY 1").fetchall()
    assert dict(found) == {"misplaced": misplaced, "joined": 80 - misplaced}
    assert "set partitioner=murmur2_random in the producer" in rig.log()

    more = [f"e{number}" for number in range(600)]
    for id_ in more:
        producer.decide(id_, START + 300 * SECOND)
    producer.flush()
    feed_by_default(rig, more)
    assert rig.ended() == EXIT_REFUSED
    said = rig.log().rsplit("the worker ends: ", 1)[1]
    assert "in the partition of their key by murmur2" in said
    assert "rekey: true" in said
