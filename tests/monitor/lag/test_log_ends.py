"""The ends of a loop's logs, as the ledger compares them with what has been read."""

import uuid

import pytest

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Topic, Writer, ensure_topics
from tidemill.monitor.lag.log_ends import broker_logs, log_ends
from tidemill.schemas.logs import DECISIONS, topic_of
from tidemill.schemas.loop.definition import Loop


@pytest.fixture
def loop() -> Loop:
    """A loop with a name of its own."""
    return Loop.model_validate(
        {
            "loop": f"ends-{uuid.uuid4().hex[:8]}",
            "decision": {"type": "bool", "default": False},
            "features": {"price": "float"},
            "feedback": {
                "clicked": {"within": "10m"},
                "bought": {"within": "7d", "stream": "orders"},
            },
            "label": {"sql": "count(*) > 0"},
            "policy": {"kind": "threshold", "above": True, "below": False},
            "partitions": 2,
        }
    )


@pytest.mark.kafka
def test_the_ends_are_those_of_the_broker(kafka: KafkaConfig, loop: Loop) -> None:
    """What is in the log and not in the lake is unread, and no loss."""
    names = [topic_of(loop.loop, log) for log in loop.logs]
    ensure_topics(kafka, [Topic(name=name, partitions=2) for name in names])
    writer = Writer(kafka)
    for _ in range(3):
        writer.write(names[0], key=b"k", value=b"v", partition=1)
    writer.write(names[2], key=b"k", value=b"v", partition=0)
    assert writer.flush(30) == 0
    writer.close()
    assert log_ends(kafka, loop) == {
        ("decisions", 0): 0,
        ("decisions", 1): 3,
        ("feedback", 0): 0,
        ("feedback", 1): 0,
        ("feedback.orders", 0): 1,
        ("feedback.orders", 1): 0,
    }


@pytest.mark.kafka
def test_a_loop_without_topics_is_told(kafka: KafkaConfig, loop: Loop) -> None:
    """It was never published to this broker."""
    with pytest.raises(BrokerError):
        log_ends(kafka, loop)


@pytest.mark.kafka
def test_what_the_loop_does_not_expect_is_looked_up_too(kafka: KafkaConfig, loop: Loop) -> None:
    """A partition that was added, and a stream that an older version had."""
    names = [topic_of(loop.loop, log) for log in loop.logs]
    ensure_topics(kafka, [Topic(name=names[0], partitions=3)])
    ensure_topics(kafka, [Topic(name=name, partitions=2) for name in names[1:]])
    left = f"{loop.loop}.feedback.old"
    ensure_topics(kafka, [Topic(name=name, partitions=1) for name in (left, f"{left}.rekeyed")])
    writer = Writer(kafka)
    for _ in range(4):
        writer.write(names[0], key=b"k", value=b"v", partition=2)
    writer.write(left, key=b"k", value=b"v", partition=0)
    assert writer.flush(30) == 0
    writer.close()
    found = broker_logs(kafka, loop)
    assert found.ends[DECISIONS, 2] == 4
    assert found.unread == {left: 1}
