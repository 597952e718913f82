"""A client in TypeScript, generated from the worker's own description, against a real worker."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.serving.conftest import NOWHERE, Serve

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


@pytest.mark.soak
def test_the_example_asks_and_tells_and_types_are_those_of_the_loop(
    service: Path, serve: Serve
) -> None:
    """The example is for the template of `tidemill init`; a wrong feature is a compile error."""
    loop = load_loop(ROOT / "cli" / "loop.template.yaml")
    log = MemoryEventLog()
    config = ServingWorkerConfig(kafka=NOWHERE, name="w-1", definitions=(loop,))
    url = serve(Worker(config, event_log=log))
    package = service / "package.json"
    package.write_text(package.read_text().replace("http://localhost:8700", url))
    made = npm(service, "types")
    assert made.returncode == 0, made.stderr
    ran = npm(service, "start", TIDEMILL_URL=url)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "feedback 202" in ran.stdout
    assert [event.topic for event in log.events] == ["my-loop.decisions", "my-loop.feedback"]
    program = service / "service.ts"
    right = program.read_text()
    for wrong in ('visits: "3"', "visit: 3"):
        program.write_text(right.replace("visits: 3", wrong))
        refused = npm(service, "check")
        assert refused.returncode != 0, wrong
        assert "error TS" in refused.stdout
