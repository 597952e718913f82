"""The thin Kafka client that all packages share: topics, writers, and a reader without a group.

Read `config`, `outage` (errors), `topics`, then `tail`, `bad_records`, `compacted`, `tail_thread`
and `ends` (reading), `writer`, `acknowledged` and `transactions` (writing), `child` (for what may
crash). It is the only package that
configures a librdkafka client; keys and values are bytes. It imports no other package of tidemill,
only `errors`. Consumer groups are in `streams/consumer`, which uses Faust.

Proved elsewhere: `acknowledged` by `tests/serving/test_acknowledgements.py`.
Proved elsewhere: `config` by `tests/test_kafka.py`.
Proved elsewhere: `ends` by `tests/schemas/registry/test_choose.py`.
Proved elsewhere: `groups` by `tests/streams/deadletters/test_redrive.py`.
Proved elsewhere: `outage` by `tests/monitor/lag/test_unread.py`.
Proved elsewhere: `tail` by `tests/test_kafka.py`.
Proved elsewhere: `topics` by `tests/test_kafka.py`.
Proved elsewhere: `transactions` by `tests/test_kafka.py`.
Proved elsewhere: `writer` by `tests/test_kafka.py`.
"""

from tidemill.kafka.acknowledged import AcknowledgedWriter
from tidemill.kafka.bad_records import BadRecord, BadRecords, parsed
from tidemill.kafka.child import ChildProcess
from tidemill.kafka.compacted import CompactedLog, LogFollower, read_values
from tidemill.kafka.config import ANSWER_S, KafkaConfig, Setting, client_log
from tidemill.kafka.ends import TopicEnds, read_range
from tidemill.kafka.groups import GroupMember
from tidemill.kafka.outage import Outages, broker_errors
from tidemill.kafka.tail import Record, Tail, read_compacted
from tidemill.kafka.tail_thread import TailThread
from tidemill.kafka.topics import (
    Topic,
    check_partitions,
    ensure_topics,
    partition_count,
    partition_counts,
    topics_with_producer_time,
)
from tidemill.kafka.transactions import TransactionalWriter
from tidemill.kafka.writer import Writer, write_all

__all__ = [
    "ANSWER_S",
    "AcknowledgedWriter",
    "BadRecord",
    "BadRecords",
    "ChildProcess",
    "CompactedLog",
    "GroupMember",
    "KafkaConfig",
    "LogFollower",
    "Outages",
    "Record",
    "Setting",
    "Tail",
    "TailThread",
    "Topic",
    "TopicEnds",
    "TransactionalWriter",
    "Writer",
    "broker_errors",
    "check_partitions",
    "client_log",
    "ensure_topics",
    "parsed",
    "partition_count",
    "partition_counts",
    "read_compacted",
    "read_range",
    "read_values",
    "topics_with_producer_time",
    "write_all",
]
