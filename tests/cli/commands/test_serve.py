"""`tidemill serve` as a person starts it for the first time."""

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from tests.schemas.loops import MINIMAL

from tidemill.deploy.local.kafka_settings import free_port
from tidemill.deploy.local.supervisor import answers, tidemill_command


@pytest.mark.slow
def test_a_loop_file_is_served_without_kafka(tmp_path: Path) -> None:
    """The page "A start without Kafka" is what a newcomer tries before there is any Kafka."""
    path, port = tmp_path / "loop.yaml", free_port()
    path.write_text(MINIMAL)
    env = {name: value for name, value in os.environ.items() if "KAFKA" not in name}
    serve = tidemill_command("serve", "--file", str(path), "--port", str(port))
    process = subprocess.Popen(serve, env=env, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(f"{url}/readyz"):
            assert process.poll() is None, process.stderr and process.stderr.read()
        body = json.dumps({"features": {"country": "de", "visits": 3}}).encode()
        request = urllib.request.Request(f"{url}/v1/loops/banner/decisions", body)
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["source"] == "default"
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert any("no Kafka" in each for each in json.load(answer)["trouble"])
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "no Kafka" in errors
    assert "Traceback" not in errors
