"""Fixtures for tests that need a real S3 server: ``pytest_plugins = ["tidemill.testing.s3"]``."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from tidemill.deploy.local.jars import cache_dir
from tidemill.deploy.local.s3 import embedded_s3
from tidemill.errors import LakeError, TidemillError
from tidemill.features.lake.lake import LakeConfig
from tidemill.testing.kafka import has_docker
from tidemill.testing.missing import unavailable

log = logging.getLogger(__name__)


def start_s3(running: ExitStack, env: Mapping[str, str], data: Path) -> LakeConfig:
    """Start a server that ends with *running*: in Docker if its engine answers, else embedded.

    Raises:
        TidemillError: neither can be started.
    """
    if has_docker():
        from tidemill.testing.docker import docker_s3

        try:
            return running.enter_context(docker_s3())
        except LakeError as error:
            log.warning("the embedded S3 server is used: %s", error)
    return running.enter_context(embedded_s3(cache_dir(env), data))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakeConfig]:
    """A real S3 server with one bucket, for the whole session."""
    with ExitStack() as running:
        try:
            config = start_s3(running, os.environ, tmp_path_factory.mktemp("s3"))
        except TidemillError as error:
            unavailable("an S3 server", error)
        yield config


@pytest.fixture
def s3(s3_server: LakeConfig) -> LakeConfig:
    """A prefix of its own in the bucket of the S3 server."""
    return replace(s3_server, root=f"{s3_server.root}/{uuid4().hex}")
