"""The notifier: a wait ends at a message about the loop, and without one after a timeout."""

import threading
import time
import uuid

import pytest

from tidemill.kafka import KafkaConfig, ensure_topics, write_all
from tidemill.schemas import topics
from tidemill.schemas.published import SHARED_TOPICS
from tidemill.trainers.notifier import Notifier

NOWHERE = KafkaConfig("127.0.0.1:1")


@pytest.mark.slow
def test_without_a_broker_the_wait_ends_after_the_timeout() -> None:
    """A missed message is found in the lake; a trainer that waited for it would stand still."""
    notifier = Notifier(NOWHERE, "banner", threading.Event())
    started = time.monotonic()
    notifier.wait(0.4)
    assert 0.3 < time.monotonic() - started < 30
    notifier.close()


@pytest.mark.slow
def test_a_stop_ends_the_wait() -> None:
    """A supervisor kills what does not end in time."""
    stop = threading.Event()
    notifier = Notifier(NOWHERE, "banner", stop)
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    notifier.wait(600)
    assert time.monotonic() - started < 60
    notifier.close()


@pytest.mark.kafka
def test_a_message_about_the_loop_ends_the_wait_and_others_do_not(kafka: KafkaConfig) -> None:
    """Fresh examples become a model within seconds; those of other loops are no reason to look."""
    ensure_topics(kafka, SHARED_TOPICS)
    loop = f"banner-{uuid.uuid4().hex[:12]}"
    notifier = Notifier(kafka, loop, threading.Event())
    write_all(kafka, topics.CONTROL, [(b"close/" + loop.encode(), b"{}"), (b"other", b"1")])
    started = time.monotonic()
    notifier.wait(1.0)
    assert time.monotonic() - started > 0.9
    write_all(kafka, topics.CONTROL, [(loop.encode(), b"1")])
    started = time.monotonic()
    notifier.wait(600)
    assert time.monotonic() - started < 60
    notifier.close()
