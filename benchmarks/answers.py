"""The examples topic of a peer, compared with the one right answer of the workload."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from benchmarks.workload import number_of, right_labels
from tidemill.kafka import KafkaConfig

Label = Callable[[bytes], bool]
AT_ONCE = 20_000
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The rows of one system compared with the right answer: one right row for each decision."""

    rows: int
    wrong: int  # rows with a label that is not the decision's final one
    doubled: int  # right rows after the first of a decision
    missing: int  # decisions without a right row


def compare(
    numbers: npt.NDArray[np.int64], labels: npt.NDArray[np.float64], decisions: int
) -> Answer:
    """Compare rows, each the number of its decision and its label (0 or 1), with the right answer.

    Rows of decisions from *decisions* on only close the last windows; they do not count.
    """
    asked = numbers < decisions
    numbers, labels = numbers[asked], labels[asked]
    is_right = labels == right_labels(numbers)
    found = np.bincount(numbers[is_right], minlength=decisions)
    return Answer(
        rows=len(numbers),
        wrong=int(np.count_nonzero(~is_right)),
        doubled=int(np.maximum(found - 1, 0).sum()),
        missing=int(np.count_nonzero(found == 0)),
    )


def read_answer(kafka: KafkaConfig, topic: str, decisions: int, label: Label) -> Answer:
    """Read all committed rows of *topic*, keyed by decision id, and compare them.

    Raises:
        TimeoutError: the broker sent nothing for a while before the end of the topic.
    """
    settings = kafka.client(
        group_id="bench-answers",
        enable_auto_commit=False,
        enable_partition_eof=True,
        isolation_level="read_committed",
    )
    consumer = Consumer(settings)
    numbers, labels, heard_s = [], [], time.monotonic()
    try:
        partitions = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, place, OFFSET_BEGINNING) for place in partitions])
        left = set(partitions)
        while left:
            messages = consumer.consume(AT_ONCE, timeout=0.5)  # at most 0.5 s for AT_ONCE records
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > TIMEOUT_S:
                raise TimeoutError(f"{topic}: nothing came for {TIMEOUT_S} s")
            for message in messages:
                if message.error() is not None:
                    left.discard(message.partition())
                    continue
                numbers.append(number_of(message.key() or b""))
                labels.append(label(message.value() or b""))
    finally:
        consumer.close()
    return compare(np.array(numbers, np.int64), np.array(labels, np.float64), decisions)
