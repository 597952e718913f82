"""The page about rollouts: its loop, its program and its health page, as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving.stages.staged import served, three_models

from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.loop_file import parse_loop
from tidemill.serving.api.metrics import exposition, health, registry_of
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/howto/roll-out-a-model.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the code blocks of *language* on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def loop() -> Loop:
    """The loop of the page."""
    return parse_loop(blocks("yaml")[0], file="banner.yaml")


def shape(value: object) -> object:
    """Return the names of *value*, at each depth."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return None


def test_the_program_of_the_page_prints_what_the_page_says(loop: Loop) -> None:
    """It computes the stages of the page's loop."""
    program = blocks("python")[0]
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == (blocks("text")[0], 0), ran.stderr
    assert loop.rollout is not None
    stated = (loop.rollout.control, loop.rollout.canary.share)
    assert f"control={stated[0]}, canary={stated[1]}" in program


def test_health_page_and_metrics_have_what_the_page_says(loop: Loop) -> None:
    """An operator looks for these names."""
    config = ServingWorkerConfig(kafka=None, name="w", definitions=(loop,))
    worker = Worker(config, event_log=MemoryEventLog())
    maker = worker.decider("banner")
    maker.models = three_models()._replace(shadow=served("s", lambda _: 0.5))
    check = maker.decisions.check
    for number in range(300):
        maker.decide(check({"country": "PT", "visits": 3}, entity=f"user-{number}"))
    assert worker.shadows.drain()
    loops = health(worker)["loops"]
    assert isinstance(loops, dict)
    (shown,) = blocks("json")
    assert shape(loops["banner"]) == shape(json.loads(shown))
    metrics = exposition(registry_of(worker)).decode()
    named = set(re.findall(r"`(tidemill_\w+)`", PAGE))
    assert len(named) == 9
    assert {name for name in named if name not in metrics} == set()
    worker.close()
