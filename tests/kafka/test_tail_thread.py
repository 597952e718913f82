"""The supervised thread over topics: what it reads, and that it never ends without a word."""

import threading
import time
import uuid
from collections.abc import Callable
from typing import Self

import pytest

from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Record, TailThread, Topic, ensure_topics, write_all

NOWHERE = KafkaConfig("127.0.0.1:1")


class PoisonError(Exception):
    """The error of a callback."""


class Reader:
    """An owner of a thread: keeps the values, and fails at those that are *poison*."""

    def __init__(
        self, config: KafkaConfig, *names: str, goes_on: bool = False, poison: bytes = b"poison"
    ) -> None:
        self.values: list[bytes | None] = []
        self.failures: list[Exception] = []
        self.rewinds = 0
        self.caught_up = threading.Event()
        self._poison, self._goes_on = poison, goes_on
        self.thread = TailThread(
            config,
            dict.fromkeys(names, self._take),
            name="the reader",
            consequence="nothing is read",
            on_rewind=self._rewind,
            on_caught_up=self.caught_up.set,
            on_failure=self._fail,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.thread.close()

    def _take(self, records: list[Record]) -> None:
        for record in records:
            if record.value == self._poison:
                raise PoisonError
            self.values.append(record.value)

    def _rewind(self) -> None:
        self.rewinds += 1
        self.values.clear()

    def _fail(self, error: Exception) -> bool:
        self.failures.append(error)
        return self._goes_on


def wait_for(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Return as soon as *condition* holds; fail after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def topic(config: KafkaConfig) -> str:
    """Make a compacted topic that no other test has."""
    name = f"tailed-{uuid.uuid4().hex[:12]}"
    ensure_topics(config, [Topic(name=name, compacted=True)])
    return name


def said(caplog: pytest.LogCaptureFixture, words: str) -> int:
    """Return how many records of the log hold *words*."""
    return sum(words in record.getMessage() for record in caplog.records)


@pytest.mark.slow
def test_an_outage_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A line for each attempt would fill the log of a night without a broker."""
    with Reader(NOWHERE, "any") as reader:
        reader.thread.start()
        wait_for(lambda: isinstance(reader.thread.error, BrokerError))
        first = reader.thread.error
        wait_for(lambda: reader.thread.error is not first)
        reader.thread.check()
        assert said(caplog, "nothing is read: ") == 1
        assert said(caplog, "no broker of ") == 0
        assert reader.failures == []


@pytest.mark.slow
def test_whoever_needs_the_topic_at_once_gets_the_error() -> None:
    """A worker without its control topic should not start and then wait for ever."""
    with Reader(NOWHERE, "any") as reader, pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        reader.thread.open(timeout_s=0.5)


def test_a_callback_that_hangs_does_not_hold_up_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    """The stop of a worker is bounded, and a thread that is left behind is named."""
    released = threading.Event()

    def hang(_error: Exception) -> bool:
        return not released.wait(30)

    def fail() -> None:
        raise PoisonError

    thread = TailThread(NOWHERE, {}, name="a", consequence="b", on_rewind=fail, on_failure=hang)
    thread.start()
    wait_for(lambda: thread.error is not None)
    started = time.monotonic()
    thread.close(timeout_s=0.1)
    released.set()
    assert time.monotonic() - started < 5
    assert said(caplog, "the thread a has not stopped") == 1


@pytest.mark.kafka
def test_topics_are_read_from_the_beginning_and_on(kafka: KafkaConfig) -> None:
    """A worker that starts late finds the newest model, and hears of the next."""
    first, second = topic(kafka), topic(kafka)
    write_all(kafka, first, [(b"a", b"1")])
    write_all(kafka, second, [(b"a", b"2")])
    with Reader(kafka, first, second) as reader:
        reader.thread.start()
        assert reader.caught_up.wait(120)
        assert reader.values == [b"1", b"2"]
        write_all(kafka, first, [(b"a", b"3")])
        wait_for(lambda: reader.values == [b"1", b"2", b"3"])
        reader.thread.close()
        reader.thread.check()
        assert (reader.thread.error, reader.rewinds) == (None, 1)


@pytest.mark.kafka
def test_an_error_of_a_callback_ends_the_thread_and_reaches_its_owner(
    kafka: KafkaConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that dies alone leaves a worker that waits for ever and looks well."""
    name = topic(kafka)
    with Reader(kafka, name) as reader:
        reader.thread.open()
        reader.thread.start()
        reader.thread.check()
        write_all(kafka, name, [(b"a", b"poison")])

        def ended() -> bool:
            try:
                reader.thread.check()
            except RuntimeError as error:
                return isinstance(error.__cause__, PoisonError)
            return False

        wait_for(ended)
        assert isinstance(reader.thread.error, PoisonError)
        assert reader.failures == [reader.thread.error]
        assert [record.exc_info is not None for record in caplog.records] == [True]
        assert said(caplog, "the thread the reader failed") == 1


@pytest.mark.kafka
def test_an_owner_may_have_everything_read_again(
    kafka: KafkaConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """A serving worker goes on deciding and must hear of the model after the one it failed at."""
    name = topic(kafka)
    write_all(kafka, name, [(b"a", b"1")])
    with Reader(kafka, name, goes_on=True) as reader:
        reader.thread.start()
        assert reader.caught_up.wait(120)
        write_all(kafka, name, [(b"a", b"poison")])
        wait_for(lambda: len(reader.failures) > 1)
        reader.thread.check()
        reader._poison = b"cured"
        wait_for(lambda: reader.values == [b"1", b"poison"] and reader.thread.error is None)
        assert reader.rewinds == 1 + len(reader.failures)


@pytest.mark.kafka
def test_a_thread_that_started_without_a_broker_reads_once_there_is_one(
    own_kafka: EmbeddedKafka, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers start in any order; the broker may come last, and go and come again."""
    name = topic(own_kafka.config)
    write_all(own_kafka.config, name, [(b"a", b"1")])
    own_kafka.kill()
    with Reader(own_kafka.config, name) as reader:
        reader.thread.start()
        wait_for(lambda: isinstance(reader.thread.error, BrokerError))
        own_kafka.restart()
        wait_for(lambda: reader.values == [b"1"] and reader.thread.error is None)
        own_kafka.kill()
        own_kafka.restart()
        write_all(own_kafka.config, name, [(b"a", b"2")])
        wait_for(lambda: reader.values[-1:] == [b"2"])
        assert said(caplog, "nothing is read: ") == 1
