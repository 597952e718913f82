"""Quix Streams as a peer: `quixjoin.py` in a virtual environment of its own, created when needed.

It is no dependency of this project or of its tests; pip installs it for the benchmark only.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.workload import GRACE, WITHIN, Filled
from tidemill.deploy.local.jars import cache_dir
from tidemill.errors import ConfigError
from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import decision_schema, feedback_schema

VERSION = "3.28.1"
SCRIPT = Path(__file__).with_name("quixjoin.py")


def interpreter() -> Path:
    """Return the Python that has Quix Streams, after installing it the first time.

    Raises:
        ConfigError: pip could not.
    """
    home = cache_dir(os.environ) / f"quix-{VERSION}-py{sys.version_info.minor}"
    python = home / "bin" / "python"
    done = home / "installed"
    if not done.exists():
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        for step in (
            [sys.executable, "-m", "venv", str(home)],
            [*pip, f"quixstreams=={VERSION}"],
        ):
            made = subprocess.run(step, capture_output=True, text=True, check=False)
            if made.returncode:
                raise ConfigError(
                    f"Quix Streams {VERSION} could not be installed: {made.stderr.strip()}",
                    hint="connect this machine once, or name the parts to run without peers",
                )
        done.touch()
    return python


def command(
    kafka: KafkaConfig, filled: Filled, folder: Path, *, group: str, examples: str
) -> list[str]:
    """Return the command that joins *filled* into the topic *examples*, its state in *folder*."""
    bench = filled.loop
    decisions, feedback = folder / "decision.avsc", folder / "feedback.avsc"
    decisions.write_text(json.dumps(decision_schema(bench)))
    feedback.write_text(json.dumps(feedback_schema(bench, "click")))
    asked = folder / f"{group}.json"
    asked.write_text(
        json.dumps(
            {
                "bootstrap": kafka.bootstrap,
                "group": group,
                "state": str(folder / group),
                "decisions": topics.decisions(bench.loop),
                "decisions_schema": str(decisions),
                "feedback": topics.feedback(bench.loop),
                "feedback_schema": str(feedback),
                "examples": examples,
                "within_ms": int(WITHIN.total_seconds() * 1000),
                "grace_ms": int(GRACE.total_seconds() * 1000),
            }
        )
    )
    return [str(interpreter()), "-W", "ignore", str(SCRIPT), str(asked)]
