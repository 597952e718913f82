"""The thin Kafka client that all packages share: topics, writers, and a reader without a group.

Read `config`, `topics`, then `tail`, `tail_thread` and `ends` (reading), `writer`,
`acknowledged` and `transactions` (writing). It is the only package that configures a librdkafka
client; keys and values are bytes. It imports no other package of tidemill, only `errors`. Consumer
groups are in `streams/consumer`, which uses Faust.

Proved elsewhere: `acknowledged` by `tests/serving/test_acknowledgements.py`.
Proved elsewhere: `config` by `tests/test_kafka.py`.
Proved elsewhere: `ends` by `tests/schemas/registry/test_choose.py`.
Proved elsewhere: `groups` by `tests/streams/deadletters/test_redrive.py`.
Proved elsewhere: `tail` by `tests/test_kafka.py`.
Proved elsewhere: `topics` by `tests/test_kafka.py`.
Proved elsewhere: `transactions` by `tests/test_kafka.py`.
Proved elsewhere: `writer` by `tests/test_kafka.py`.
"""

from tidemill.kafka.acknowledged import AcknowledgedWriter
from tidemill.kafka.config import KafkaConfig, Setting, broker_errors, client_log
from tidemill.kafka.ends import TopicEnds
from tidemill.kafka.tail import Record, Tail, read_compacted
from tidemill.kafka.tail_thread import TailThread
from tidemill.kafka.topics import Topic, ensure_topics, partition_count
from tidemill.kafka.transactions import TransactionalWriter
from tidemill.kafka.writer import Writer, write_all

__all__ = [
    "AcknowledgedWriter",
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
