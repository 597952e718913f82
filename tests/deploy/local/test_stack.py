"""The processes of a machine: their ports, and how they are looked at."""

import os
import socket
from pathlib import Path

import pytest
from tests.serving.api.test_callers import certificate

from tidemill.access import TLS_CERT, TLS_CLIENT_CA, TLS_KEY, TOKENS, add_token
from tidemill.deploy.local.kafka_settings import ephemeral_ports, free_port
from tidemill.deploy.local.stack import Ports, Stack
from tidemill.errors import ConfigError
from tidemill.http_server.listener import HttpConfig
from tidemill.http_server.pages import PageServer
from tidemill.kafka import KafkaConfig


def test_ports_that_are_taken_are_named_before_anything_starts() -> None:
    """Another `up` is the usual reason; its crash loop told of it a minute later."""
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port: int = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken") as caught:
            Ports.from_first(port - 1, servers=1).check_free()
        assert "--port" in caught.value.hint


def test_each_process_has_a_port_of_its_own() -> None:
    """One that two shared would be refused to the second."""
    for ports in (Ports.from_first(8700, 2), Ports.free(2)):
        all_ports = [*ports.servers, ports.monitor, ports.worker_metrics, ports.trainer_metrics]
        assert len(set(all_ports)) == len(all_ports) == 5


def test_no_connection_is_given_a_port_of_ours() -> None:
    """A client's connection sat on the port of a broker that came back."""
    first, last = ephemeral_ports()
    assert not any(first <= free_port() <= last for _ in range(300))


@pytest.mark.parametrize("is_mutual", [False, True])
@pytest.mark.parametrize("has_tls", [False, True])
def test_programs_with_tokens_and_certificates_are_seen_to_be_ready(
    has_tls: bool, is_mutual: bool, tmp_path: Path
) -> None:
    """Else `up` would start its own monitor anew for ever, because it has no token."""
    env = {TOKENS: str(tmp_path / "tokens")}
    add_token(
        tmp_path / "tokens", name="x", scopes=frozenset(("admin",)), loops=frozenset("*"), rate=None
    )
    authority, _ = certificate(tmp_path, "ca")
    if has_tls:
        cert, key = certificate(tmp_path, "server", "ca")
        env |= {TLS_CERT: str(cert), TLS_KEY: str(key)}
        env |= {TLS_CLIENT_CA: str(authority)} if is_mutual else {}
    ports = Ports.free(1)
    kafka = KafkaConfig("127.0.0.1:1")
    stack = Stack(kafka=kafka, lake="", folder=tmp_path, ports=ports, loops=["shop"], env=env)
    programs = {each.name: each for each in stack.programs()}
    assert programs["monitor"].address.startswith("https://" if has_tls else "http://")
    for name, port in (("monitor", ports.monitor), ("serve-1", ports.servers[0])):
        ready, alive = programs[name].is_ready, programs[name].is_alive
        assert ready is not None
        assert alive is not None
        assert not ready(os.getpid())
        with PageServer({}, HttpConfig.from_env(env, port=port)):
            assert ready(os.getpid())
            assert alive(os.getpid())
            assert not ready(os.getpid() + 1), "somebody else's program"


def test_without_files_every_process_takes_up_the_loops_that_are_published_later(
    tmp_path: Path,
) -> None:
    """With the names that `up` had found, a loop published an hour later was never trained."""
    kafka, ports = KafkaConfig("127.0.0.1:1"), Ports.free(1)
    stack = Stack(kafka=kafka, lake="", folder=tmp_path, ports=ports, loops=())
    commands = {each.name: list(each.command) for each in stack.programs()}
    for name, verb in (
        ("worker", "worker"),
        ("train", "train"),
        ("monitor", "monitor"),
        ("serve-1", "serve"),
    ):
        behind = commands[name][commands[name].index(verb) + 1]
        assert behind.startswith("--"), f"{name} is started for {behind} alone"


def test_certificates_that_would_keep_up_out_are_told_before_anything_starts(
    tmp_path: Path,
) -> None:
    """A stack that never becomes ready does not say why."""
    authority, _ = certificate(tmp_path, "ca")
    cert, key = certificate(tmp_path, "alone")
    env = {TLS_CERT: str(cert), TLS_KEY: str(key), TLS_CLIENT_CA: str(authority)}
    stack = Stack(
        kafka=KafkaConfig("127.0.0.1:1"),
        lake="",
        folder=tmp_path,
        ports=Ports.free(1),
        loops=["shop"],
        env=env,
    )
    with pytest.raises(ConfigError, match="none of a client"):
        stack.programs()


def test_one_trainer_serves_all_loops(tmp_path: Path) -> None:
    """A trainer takes 333 MB: a hundred of them fit no machine."""
    stack = Stack(
        kafka=KafkaConfig("127.0.0.1:1"),
        lake="",
        folder=tmp_path,
        ports=Ports.free(1),
        loops=["shop", "mail"],
        env={},
    )
    (trainer,) = (each for each in stack.programs() if each.name.startswith("train"))
    assert list(trainer.command)[-5:-2] == ["train", "shop", "mail"]
