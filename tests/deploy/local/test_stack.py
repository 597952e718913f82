"""The ports of the processes of a machine: their own, or a plain error."""

import socket

import pytest

from tidemill.deploy.local.kafka_settings import ephemeral_ports, free_port
from tidemill.deploy.local.stack import Ports
from tidemill.errors import ConfigError


def test_ports_that_are_taken_are_named_before_anything_starts() -> None:
    """Another `up` is the usual reason; its crash loop told of it a minute later."""
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port: int = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken") as caught:
            Ports.from_first(port - 1, servers=1, trainers=2).check_free()
        assert "--port" in caught.value.hint


def test_each_process_has_a_port_of_its_own() -> None:
    """One that two shared would be refused to the second."""
    for ports in (Ports.from_first(8700, 2, trainers=3), Ports.free(2, trainers=3)):
        all_ports = [*ports.servers, ports.monitor, ports.worker_metrics, *ports.trainer_metrics]
        assert len(set(all_ports)) == len(all_ports) == 7


def test_no_connection_is_given_a_port_of_ours() -> None:
    """A client's connection sat on the port of a broker that came back."""
    first, last = ephemeral_ports()
    assert not any(first <= free_port() <= last for _ in range(300))
