"""The page about curl: each command of it, as it stands there, against a real worker."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.serving.conftest import NOWHERE, Serve

from tidemill.schemas.loop.loop_file import load_loop
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/howto/ask-with-curl.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_command_of_the_page_is_answered_as_it_says(serve: Serve) -> None:
    """Whoever types it first must not have to guess what is wrong."""
    loop = load_loop(ROOT / "cli" / "loop.template.yaml")
    log = MemoryEventLog()
    config = ServingWorkerConfig(kafka=NOWHERE, name="w-1", definitions=(loop,))
    url = serve(Worker(config, event_log=log))
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    commands = [each for block in blocks for each in block.replace("\\\n", "").splitlines()]
    answers = []
    for command in commands:
        ran = subprocess.run(
            command.replace("http://localhost:8700", url),
            shell=True,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        answers.append(json.loads(ran.stdout))
    decided, told, batch, described, health, api, mistake = answers
    assert decided["id"] == "visit-1"
    assert told.keys() == {"id"}
    assert len(batch["batch"]) == 2
    assert described["loop"] == "my-loop"
    assert "my-loop" in json.dumps(health)
    assert api["openapi"] == "3.1.0"
    assert "feature 'visits' is str, not int" in mistake["what"]
    assert [event.topic for event in log.events] == [
        "my-loop.decisions",
        "my-loop.feedback",
        *["my-loop.decisions"] * 2,
    ]
