"""A broker that freezes and continues: the process that reads the lag goes on."""

import subprocess
import sys
from contextlib import suppress

import pytest
from tests.monitor.lag.lags import commit

from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.errors import BrokerError
from tidemill.kafka import Topic, ensure_topics, write_all
from tidemill.monitor.lag import LagReader


def prepared(broker: EmbeddedKafka) -> None:
    """Give a group a lag of 3."""
    ensure_topics(broker.config, [Topic(name="frozen")])
    write_all(broker.config, "frozen", [(b"k", b"v")] * 5)
    commit(broker.config, "readers", "frozen", {0: 2})


@pytest.mark.kafka
def test_a_reader_survives_a_broker_that_freezes_and_continues(own_kafka: EmbeddedKafka) -> None:
    """`lag --watch` and the monitor ended by SIGABRT inside librdkafka, five times of five."""
    prepared(own_kafka)
    with LagReader(own_kafka.config, timeout_s=1.0) as reader:
        assert [lag.messages for lag in reader.read("readers")] == [3]
        for _ in range(2):
            own_kafka.suspend()
            for _ in range(2):
                with pytest.raises(BrokerError, match="the lag could not be read"):
                    reader.read()
            own_kafka.resume()
            _read_again(reader)


def _read_again(reader: LagReader) -> None:
    """Read until the broker has woken up, at most a minute."""
    for _ in range(30):
        try:
            assert [lag.messages for lag in reader.read("readers")] == [3]
        except BrokerError:
            continue
        return
    pytest.fail("the lag was never read again")


WITHOUT_A_CHILD = """
import os, signal, sys, time
from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig
from tidemill.monitor.lag.reading import LagReading
reading = LagReading(KafkaConfig(sys.argv[1]), 1.0)
reading.read(None)
for line in sys.stdin:
    try:
        reading.read(None)
    except BrokerError:
        pass
    print("read", flush=True)
"""


@pytest.mark.soak
def test_the_same_reading_without_a_child_process_ends_its_process(
    own_kafka: EmbeddedKafka,
) -> None:
    """The negative control: once it goes well, librdkafka is mended and the child can go."""
    prepared(own_kafka)
    command = [sys.executable, "-c", WITHOUT_A_CHILD, own_kafka.config.bootstrap]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        for _ in range(5):
            own_kafka.suspend()
            _ask(process)
            _ask(process)
            own_kafka.resume()
            _ask(process)
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        assert process.wait(120) < 0


def _ask(process: "subprocess.Popen[str]") -> None:
    """Have it read once; do nothing if it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
    except BrokenPipeError:
        return
    process.stdout.readline()
