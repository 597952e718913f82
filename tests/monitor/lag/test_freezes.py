"""A broker that freezes and continues: the process that reads the lag goes on."""

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
