"""The Kafka of the compose file, if the machine has Docker."""

import logging
import shutil
import subprocess
from importlib.resources import files

from tidemill.kafka import KafkaConfig

logger = logging.getLogger(__name__)

DOCKER_PORT = 9092  # as in docker-compose.kafka.yml


def docker_kafka() -> KafkaConfig | None:
    """Start the broker of the compose file; return None if Docker does not answer."""
    if shutil.which("docker") is None:
        return None
    compose = [
        "docker",
        "compose",
        "--file",
        str(files("tidemill.deploy.local") / "docker-compose.kafka.yml"),
    ]
    commands = (
        ["docker", "info"],
        ["docker", "compose", "version"],
        [*compose, "up", "--detach", "--wait"],
    )
    for command in commands:
        try:
            limit_s = 300.0 if "up" in command else 10.0
            subprocess.run(command, check=True, capture_output=True, timeout=limit_s)
        except (OSError, subprocess.SubprocessError) as error:
            logger.info("no Kafka from Docker: %s", error)
            return None
    return KafkaConfig(f"localhost:{DOCKER_PORT}")
