"""The thin Kafka client that all rooms share: topics, a writer, and a groupless reader.

It is the only place that knows how a librdkafka client is set up. It knows no loop, no schema and
no model; keys and values are bytes. Consumer groups live in `streams/`, which has Faust for them.
"""

from tidemill.kafka.config import KafkaConfig, Setting, broker_errors, client_log
from tidemill.kafka.ends import TopicEnds
from tidemill.kafka.tail import Record, Tail, read_compacted
from tidemill.kafka.tail_thread import TailThread
from tidemill.kafka.topics import Topic, ensure_topics, partition_count
from tidemill.kafka.transactions import TransactionalWriter
from tidemill.kafka.writer import Writer, write_all

__all__ = [
    "KafkaConfig",
    "Record",
    "Setting",
    "Tail",
    "TailThread",
    "Topic",
    "TopicEnds",
    "TransactionalWriter",
    "Writer",
    "broker_errors",
    "client_log",
    "ensure_topics",
    "partition_count",
    "read_compacted",
    "write_all",
]
