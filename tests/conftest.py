"""What the tests of all rooms share: a real Kafka, found or started once."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tidemill.deploy.local.jars import cache_dir
from tidemill.deploy.local.kafka import EmbeddedKafka, find_kafka
from tidemill.errors import TidemillError
from tidemill.kafka import KafkaConfig

# A busy machine is no failure: Hypothesis looks for wrong results here, not for slow ones.
# pytest --hypothesis-profile chooses another one; tests/examples.py says what `soak` changes.
for profile in ("fast", "test", "soak"):
    settings.register_profile(profile, deadline=None)
settings.load_profile("test")


def _unavailable(error: TidemillError) -> None:
    """Skip on a laptop, fail in CI: there, a missing broker would hide half of the tests."""
    if os.environ.get("CI"):
        pytest.fail(f"no Kafka could be started: {error}", pytrace=False)
    pytest.skip(f"no Kafka could be started: {error}")


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaConfig]:
    """A real broker for the whole session; give topics and loops names of your own in it."""
    try:
        running = find_kafka(os.environ)
    except TidemillError as error:
        _unavailable(error)
        return
    yield running.config
    running.stop()


@pytest.fixture
def own_kafka() -> Iterator[EmbeddedKafka]:
    """A broker for one test alone, which may kill, suspend and restart it."""
    broker = EmbeddedKafka(cache=cache_dir(os.environ))
    try:
        broker.start()
    except TidemillError as error:
        _unavailable(error)
    yield broker
    broker.close()
