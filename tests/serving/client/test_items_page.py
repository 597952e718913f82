"""The page about items: its loop, its service, its commands and its test, as they stand there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving.client.test_items import logged, serving
from tests.serving.conftest import Serve

from tidemill.schemas.logs import FEEDBACK
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.loop_file import load_loop
from tidemill.serving.decision.event_log import MemoryEventLog

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/howto/choose-among-items.md").read_text()
LOCAL = "http://localhost:8700"


def blocks(language: str) -> list[str]:
    """Return the code blocks of *language* on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def loop() -> Loop:
    """The loop of the page, which is that of the examples."""
    file = ROOT / "examples/front-page.yaml"
    assert blocks("yaml") == [file.read_text()]
    return load_loop(file)


@pytest.mark.slow
def test_the_service_of_the_page_prints_what_the_page_says(
    loop: Loop, serve: Serve, log: MemoryEventLog
) -> None:
    """It is copied; an example that fails is the first thing that people learn."""
    url = serve(serving(loop, log))
    program = blocks("python")[0].replace(LOCAL, url)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == (blocks("text")[0], 0), ran.stderr
    assert [row["item"] for row in logged(loop, log, FEEDBACK)] == ["article-4"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_page_are_answered(
    loop: Loop, serve: Serve, log: MemoryEventLog
) -> None:
    """Whoever types them first must not have to guess what is wrong."""
    url = serve(serving(loop, log))
    commands = blocks("sh")[1].replace("\\\n", "").replace(LOCAL, url).splitlines()
    answers = []
    for command in commands:
        ran = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        answers.append(json.loads(ran.stdout))
    assert sorted(answers[0]["action"]) == ["article-17", "article-4"]
    assert answers[1].keys() == {"id"}
    assert [row["item"] for row in logged(loop, log, FEEDBACK)] == ["article-4"]


@pytest.mark.slow
def test_the_test_of_the_page_passes_and_can_fail(tmp_path: Path) -> None:
    """The control is a service that asks about another article."""
    (tmp_path / "front-page.yaml").write_text(blocks("yaml")[0])
    test = 'pytest_plugins = ["tidemill.testing.scripted"]\n\n\n' + blocks("python")[1]
    words = [sys.executable, "-m", "pytest", "-q", "test_page.py"]
    (tmp_path / "test_page.py").write_text(test)
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (tmp_path / "test_page.py").write_text(test.replace('{"id": "article-4"', '{"id": "article-5"'))
    broken = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert broken.returncode == 1
    assert "asked about the items article-17, article-5" in broken.stdout
