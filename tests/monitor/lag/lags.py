"""What the tests of the lag share: committing, reading, and Kafka's own tool as the oracle."""

import os
import subprocess

from confluent_kafka import Consumer, TopicPartition

from tidemill.deploy.local.jars import TOOLS, cache_dir, fetch_jars
from tidemill.kafka import KafkaConfig
from tidemill.monitor.lag import GroupLag, LagReader


def commit(config: KafkaConfig, group: str, topic: str, offsets: dict[int, int]) -> None:
    """Commit *offsets* (partition -> next offset) as a group without members would leave them."""
    consumer = Consumer(config.client(group_id=group, enable_auto_commit=False))
    places = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


def read_lag(config: KafkaConfig, group: str | None = None) -> list[GroupLag]:
    """Read the lag once."""
    with LagReader(config) as reader:
        return reader.read(group)


def oracle(config: KafkaConfig, group: str) -> dict[tuple[str, int], int]:
    """Return the LAG column of Kafka's own kafka-consumer-groups for *group*."""
    jars = fetch_jars(cache_dir(os.environ), TOOLS, name="tools")
    command = jars.command(
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        *("--bootstrap-server", config.bootstrap, "--describe", "--group", group),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    header = next(line for line in lines if line[0] == "GROUP")
    topic, part, lag = (header.index(name) for name in ("TOPIC", "PARTITION", "LAG"))
    rows = [line for line in lines if line[0] == group and len(line) > lag]
    return {(row[topic], int(row[part])): int(row[lag]) for row in rows}
