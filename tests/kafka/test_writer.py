"""A writer says that Kafka takes nothing before anything is lost."""

import time

import pytest

from tidemill.kafka import KafkaConfig, Writer
from tidemill.kafka.writer import Progress


def test_records_that_wait_while_none_is_done_are_told_by_their_time() -> None:
    """A full buffer is told by a loss; a stuck one has to be told long before."""
    progress = Progress()
    for now_s, waiting, done, stuck_s in [
        (0.0, 0, 0, 0.0),
        (100.0, 0, 0, 0.0),  # idle for long
        (101.0, 5, 0, 1.0),
        (104.0, 9, 0, 4.0),
        (105.0, 9, 3, 0.0),  # some are done
        (112.0, 20, 3, 7.0),
        (113.0, 0, 23, 0.0),
    ]:
        progress.look(now_s, waiting=waiting, done=done)
        assert progress.stuck_s == stuck_s, now_s


@pytest.mark.slow
def test_a_writer_without_a_broker_is_in_trouble_and_has_lost_nothing() -> None:
    """The health page showed none for eight minutes, and then a loss."""
    writer = Writer(KafkaConfig("127.0.0.1:1"))
    assert writer.write("any", b"k", b"v")
    assert writer.trouble is None
    deadline = time.monotonic() + 120
    while writer.trouble is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert writer.trouble.startswith("events wait for Kafka (1), which has taken none for")
    assert (writer.dropped, writer.failed) == (0, 0)
    writer.close(0.0)
