"""Processes wait for a broker that is away, and end if one that answers refuses for good."""

import logging

import pytest

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Outages, broker_errors, partition_count, write_all
from tidemill.kafka.outage import is_away, why_away

NOWHERE = KafkaConfig("127.0.0.1:1")


class Failing:
    """Work that fails so many times before it is done."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> str:
        """Fail, or return."""
        self.left -= 1
        if self.left >= 0:
            raise BrokerError("no answer", hint="start it")
        return "done"


@pytest.mark.slow
def test_work_begins_anew_until_a_broker_answers(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that was started during an outage ended after 30 s, again and again."""
    assert Outages(NOWHERE, "the worker", often=2, pause_s=0.0).waited(Failing(4)) == "done"
    told = [record for record in caplog.records if "waits for Kafka" in record.getMessage()]
    assert [record.levelno for record in told if record.levelno > logging.INFO] == [logging.WARNING]


@pytest.mark.kafka
def test_brokers_that_answer_and_refuse_are_no_outage(kafka: KafkaConfig) -> None:
    """A missing right or topic is told to the supervisor; waiting would hide it."""
    work = Failing(100)
    with pytest.raises(BrokerError, match="no answer"):
        Outages(kafka, "the worker", often=3, pause_s=0.0).waited(work)
    assert work.left == 97
    assert not is_away(kafka)


def test_other_errors_are_not_waited_for() -> None:
    """Only Kafka comes back by itself."""
    with pytest.raises(ZeroDivisionError):
        Outages(NOWHERE, "the worker", pause_s=0.0).waited(lambda: 1 // 0)


@pytest.mark.slow
def test_an_error_says_why_there_was_no_answer() -> None:
    """A name that does not resolve is another mistake than a broker that is down."""
    assert is_away(NOWHERE)
    reason, hint = why_away(NOWHERE)
    assert reason == "no answer"
    assert "reachable from here" in hint
    reason, hint = why_away(KafkaConfig("broker.invalid:9092"))
    assert "KAFKA_BOOTSTRAP_SERVERS" in hint
    with (
        pytest.raises(BrokerError, match=r"it could not be done at 127\.0\.0\.1:1"),
        broker_errors(NOWHERE, "it could not be done"),
    ):
        raise TimeoutError


@pytest.mark.slow
@pytest.mark.parametrize(
    "ask",
    [
        lambda: partition_count(NOWHERE, "any"),
        lambda: write_all(NOWHERE, "any", [(b"k", b"v")]),
    ],
    ids=["look", "write"],
)
def test_what_a_command_asks_is_answered_soon(ask: object) -> None:
    """The write of a command waited for 30 s, as the lookup before it."""
    assert callable(ask)
    with pytest.raises(BrokerError, match=r"transport failure|[Tt]imed out"):
        ask()
