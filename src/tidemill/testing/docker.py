"""A Kafka broker and an S3 server in containers of their own, by testcontainers.

The broker has the settings of the embedded one. Both end with the process that started them: what
that leaves, testcontainers removes.
"""

import contextlib
import time
from collections.abc import Iterator
from functools import cache

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.wait_strategies import HttpWaitStrategy

from tidemill.deploy.local.kafka_settings import SETTINGS, free_port
from tidemill.errors import BrokerError, LakeError
from tidemill.features.lake.lake import LakeConfig
from tidemill.kafka import KafkaConfig, client_log

KAFKA_IMAGE = "apache/kafka:4.1.0"  # the version of the embedded one
S3_IMAGE = "minio/minio:RELEASE.2025-09-07T16-13-09Z"  # conditional writes came in August 2024
PULL_HINT = "pull the image once, or stop Docker to have the embedded server used"
_CLIENTS, _CONTROLLER, _INSIDE = 9092, 9093, 9094
_S3_PORT, _BUCKET = 9000, "tidemill"
_KEY, _SECRET = "tidemill", "tidemill-secret"


@cache
def why_no_docker() -> str | None:
    """Return why no container can be started here, or None if one can."""
    try:
        client = DockerClient(timeout=10).client
        client.ping()
        client.close()
    except (DockerException, OSError) as error:
        return f"no Docker engine answers: {error}"
    return None


class DockerKafka:
    """One Kafka broker in a container; its address and its data survive `restart`."""

    def __init__(self) -> None:
        """Prepare a broker at a free port of the Docker host."""
        self._container = DockerContainer(KAFKA_IMAGE)
        host, port = self._container.get_docker_client().host(), free_port()
        self.config = KafkaConfig(f"{host}:{port}")
        self._container.with_bind_ports(_CLIENTS, port)
        self._container.with_envs(**_environment(self.config.bootstrap))

    def start(self, *, timeout_s: float = 180.0) -> None:
        """Start the container and return when the broker answers.

        Raises:
            BrokerError: the image cannot be had, or the broker does not answer in *timeout_s*.
        """
        with _broker_errors():
            self._container.start()
        self._wait(timeout_s)

    def restart(self, *, timeout_s: float = 180.0) -> None:
        """Stop the broker and start it again.

        Raises:
            BrokerError: it does not answer in *timeout_s*.
        """
        with _broker_errors():
            self._container.get_wrapped_container().restart()
        self._wait(timeout_s)

    def close(self) -> None:
        """Remove the container and its data."""
        with _broker_errors():
            self._container.stop()

    def _wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        admin = AdminClient({**self.config.client(), "log_level": 0}, logger=client_log)
        while True:
            try:
                if admin.list_topics(timeout=1).brokers:
                    return
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"the Kafka in Docker does not answer after {timeout_s:g} s: {error}",
                        hint="read its log with: docker logs",
                    ) from error


def _environment(bootstrap: str) -> dict[str, str]:
    """Return the broker's settings as the image reads them.

    The broker reaches itself at a listener of its own: the clients' address is one of the host.
    """
    lines = dict(line.split("=", 1) for line in SETTINGS.splitlines())
    inside = f"INSIDE://localhost:{_INSIDE}"
    lines |= {
        "listeners": f"PLAINTEXT://:{_CLIENTS},CONTROLLER://:{_CONTROLLER},INSIDE://:{_INSIDE}",
        "advertised.listeners": f"PLAINTEXT://{bootstrap},{inside}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,INSIDE:PLAINTEXT"
        ),
        "inter.broker.listener.name": "INSIDE",
        "controller.quorum.voters": f"{lines['node.id']}@localhost:{_CONTROLLER}",
        "log.dirs": "/tmp/kraft-combined-logs",  # the image's own
    }
    return {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in lines.items()}


@contextlib.contextmanager
def _broker_errors() -> Iterator[None]:
    try:
        yield
    except (DockerException, OSError) as error:
        raise BrokerError(f"no Kafka from Docker: {error}", hint=PULL_HINT) from error


@contextlib.contextmanager
def docker_s3() -> Iterator[LakeConfig]:
    """Run an S3 server in a container until the block ends; give the lake config of its bucket.

    Raises:
        LakeError: the image cannot be had, or the server does not answer.
    """
    container = DockerContainer(S3_IMAGE).with_exposed_ports(_S3_PORT)
    container.with_envs(MINIO_ROOT_USER=_KEY, MINIO_ROOT_PASSWORD=_SECRET)
    container.with_kwargs(entrypoint=["sh", "-c"])
    container.with_command([f"mkdir -p /data/{_BUCKET} && exec minio server /data"])
    container.waiting_for(HttpWaitStrategy(_S3_PORT, "/minio/health/live"))
    try:
        container.start()
    except (DockerException, OSError) as error:  # a TimeoutError is an OSError
        container.stop()
        raise LakeError(f"no S3 server from Docker: {error}", hint=PULL_HINT) from error
    try:
        yield _lake_config(container)
    finally:
        container.stop()


def _lake_config(container: DockerContainer) -> LakeConfig:
    host, port = container.get_container_host_ip(), container.get_exposed_port(_S3_PORT)
    return LakeConfig.from_env(
        {
            "TIDEMILL_LAKE": f"s3://{_BUCKET}",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": "us-east-1",
        }
    )
