"""Fixtures for tests that need a real Kafka: ``pytest_plugins = ["tidemill.testing.kafka"]``.

The broker is that of KAFKA_BOOTSTRAP_SERVERS, else one in Docker, else an embedded one. Each worker
of pytest-xdist has a broker of its own: the topics that all loops share have fixed names.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol

import pytest

from tidemill.deploy.local.jars import cache_dir
from tidemill.deploy.local.kafka import EmbeddedKafka, find_kafka
from tidemill.errors import BrokerError, ConfigError, TidemillError
from tidemill.kafka import KafkaConfig
from tidemill.testing.missing import unavailable

log = logging.getLogger(__name__)

START_S = 300.0  # a start takes 5 s; on a busy machine it may take minutes


class Broker(Protocol):
    """A Kafka that a test may start again; its address and its data stay."""

    @property
    def config(self) -> KafkaConfig:
        """How clients reach it."""

    def start(self, *, timeout_s: float = ...) -> None:
        """Start it and return when it answers."""

    def restart(self) -> None:
        """Stop it and start it again."""

    def close(self) -> None:
        """Stop it for good and remove its data."""


def new_broker(env: Mapping[str, str]) -> Broker:
    """Return a broker that runs: in Docker if its engine answers, else embedded.

    Raises:
        TidemillError: neither can be started.
    """
    if has_docker():
        from tidemill.testing.docker import DockerKafka

        in_docker = DockerKafka()
        try:
            in_docker.start()
        except BrokerError as error:
            log.warning("the embedded Kafka is used: %s", error)
            in_docker.close()
        else:
            return in_docker
    embedded = EmbeddedKafka(cache=cache_dir(env))
    embedded.start(timeout_s=START_S)
    return embedded


def has_docker() -> bool:
    """Return whether containers can be started here."""
    try:
        from tidemill.testing.docker import why_no_docker
    except ImportError:  # testcontainers is not installed
        return False
    return why_no_docker() is None


@contextmanager
def running_kafka(env: Mapping[str, str]) -> Iterator[KafkaConfig]:
    """Give the address of a Kafka until the block ends; end what was started for it.

    Raises:
        ConfigError: one broker is given for several workers of pytest-xdist.
        TidemillError: the given broker does not answer, or no other can be started.
    """
    if env.get("KAFKA_BOOTSTRAP_SERVERS"):
        if int(env.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
            raise ConfigError(
                "the broker of KAFKA_BOOTSTRAP_SERVERS cannot serve several test workers",
                hint="run one worker (make test WORKERS=0), or unset the variable",
            )
        yield find_kafka(env).config
        return
    broker = new_broker(env)
    try:
        yield broker.config
    finally:
        broker.close()


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaConfig]:
    """A real broker for the whole session; give topics and loops names of your own in it."""
    with ExitStack() as running:
        try:
            config = running.enter_context(running_kafka(os.environ))
        except TidemillError as error:
            unavailable("Kafka", error)
        yield config


@pytest.fixture
def own_kafka() -> Iterator[EmbeddedKafka]:
    """An embedded broker for one test alone, which may kill, suspend and restart it."""
    broker = EmbeddedKafka(cache=cache_dir(os.environ))
    try:
        broker.start(timeout_s=START_S)
    except TidemillError as error:
        unavailable("Kafka", error)
    yield broker
    broker.close()
