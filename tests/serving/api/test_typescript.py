"""A client in TypeScript, generated from the worker's own description, against a real worker."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.serving.conftest import NOWHERE, Serve

from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.loop_file import load_loop
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "typescript"


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """The example with its packages; skips where Node or its registry is not there."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = shutil.copytree(EXAMPLE, tmp_path / "service")
    made = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"npm could not install the packages: {made.stderr.splitlines()[-1:]}")
    return folder


def npm(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run npm in *folder*."""
    return subprocess.run(
        ["npm", "run", "--silent", *words],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


def typed(service: Path, serve: Serve, loop: Loop, log: MemoryEventLog) -> str:
    """Serve *loop*, make the types of the example in *service* from it, and return the address."""
    config = ServingWorkerConfig(kafka=NOWHERE, name="w-1", definitions=(loop,))
    url = serve(Worker(config, event_log=log))
    package = service / "package.json"
    package.write_text(package.read_text().replace("http://localhost:8700", url))
    made = npm(service, "types")
    assert made.returncode == 0, made.stderr
    return url


@pytest.mark.soak
def test_the_example_asks_and_tells_and_types_are_those_of_the_loop(
    service: Path, serve: Serve, log: MemoryEventLog
) -> None:
    """The example is for the template of `tidemill init`; a wrong feature is a compile error."""
    url = typed(service, serve, load_loop(ROOT / "cli" / "loop.template.yaml"), log)
    ran = npm(service, "start", TIDEMILL_URL=url)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "feedback 202" in ran.stdout
    assert [event.topic for event in log.events] == ["my-loop.decisions", "my-loop.feedback"]
    assert_refused(service, "check", "service.ts", {"visits: 3": ('visits: "3"', "visit: 3")})


@pytest.mark.soak
def test_the_example_with_items_asks_about_them_and_names_one(
    service: Path, serve: Serve, log: MemoryEventLog
) -> None:
    """A wrong feature of an item, or no items at all, are compile errors, too."""
    url = typed(service, serve, load_loop(ROOT / "examples" / "front-page.yaml"), log)
    ran = npm(service, "start:front-page", TIDEMILL_URL=url)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "article-17" in ran.stdout
    assert "feedback 202" in ran.stdout
    assert [event.topic for event in log.events] == ["front-page.decisions", "front-page.feedback"]
    wrong = {
        "age_h: 0.5": ('age_h: "0.5"', "age: 0.5"),
        'topic: "politics", ': ("",),
        "items: [": ("item: [",),
        'item: "article-4"': ("item: 4", 'items: ["article-4"]'),
    }
    assert_refused(service, "check:front-page", "front-page.ts", wrong)


def assert_refused(
    service: Path, script: str, name: str, wrong: Mapping[str, tuple[str, ...]]
) -> None:
    """Check that the compiler refuses the program *name* with each *wrong* part in it."""
    program = service / name
    right = program.read_text()
    for part, others in wrong.items():
        assert right.count(part) == 1, part
        for other in others:
            program.write_text(right.replace(part, other))
            refused = npm(service, script)
            assert refused.returncode != 0, other
            assert "error TS" in refused.stdout
