"""The server as a process is run: it starts, says when it cannot, and the example is true."""

import socket
from pathlib import Path

import pytest
from tests.serving.conftest import NOWHERE, Serve
from tests.serving.models import banner

from tidemill.cli.app import main
from tidemill.http_server.listener import HttpConfig
from tidemill.schemas.loop.loop_file import load_loop
from tidemill.serving.api.server import ServerConfig, run_server
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_port_that_is_taken_is_a_failure_and_no_crash() -> None:
    """Its supervisor must see a status, its log the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = ServingWorkerConfig(kafka=NOWHERE, name="w", definitions=(banner(),), close_s=0.1)
        config = ServerConfig(worker=worker, http=HttpConfig(port=taken.getsockname()[1]))
        assert run_server(config) == 2


def test_serve_without_a_broker_named_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first thing that goes wrong for everybody."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    assert main(["serve"]) == 2
    assert "KAFKA_BOOTSTRAP_SERVERS" in capsys.readouterr().err


def test_the_example_of_a_service_runs(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the first code of ours that anybody copies."""
    flights = load_loop(ROOT / "deploy/demo/flights.yaml")
    log = MemoryEventLog()
    config = ServingWorkerConfig(kafka=NOWHERE, name="w", definitions=(flights,))
    url = serve(Worker(config, event_log=log))
    source = (ROOT / "examples/service.py").read_text()
    for port in ("8700", "8701"):
        assert f"http://localhost:{port}" in source
        source = source.replace(f"http://localhost:{port}", url)
    exec(compile(source, "service.py", "exec"), {})
    assert capsys.readouterr().out == "quiet, because of default\n"
    assert [event.topic for event in log.events] == [
        "flight-delay.decisions",
        "flight-delay.feedback",
    ]
