"""The commands over many loops: publishing them, one reading of the monitor, and the ledger.

Each command is a process of its own, as a person calls it; the topics and tables are real.
"""

import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks.workload import loop
from tidemill.deploy.local.supervisor import tidemill_command
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig

Say = Callable[[str], None]
MONITORED = 168  # so many were measured when each command still asked for every loop alone
DEADLINE_S = 1_800.0


def measure_many_loops(kafka: KafkaConfig, *, loops: int, say: Say) -> dict[str, float]:
    """Return the figures of the report's `many_loops`."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        files = loop_files(Path(folder), loops)
        env = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "TIDEMILL_LAKE": f"{folder}/lake",
        }
        publish_s, _ = timed(("publish", "--json", *map(str, files)), env)
        say(f"many loops: {loops} are published in {publish_s:.1f} s")
        lake = Lake(LakeConfig(root=f"{folder}/lake"))
        names = [path.stem for path in files[:MONITORED]]
        for name in names:
            lake.create(loop(name).model_copy(update={"partitions": 1}))
        monitor_s, read = timed(("monitor", "--once", "--json", *names), env)
        ledger_s, _ = timed(("ledger", "--json"), env)
        say(f"many loops: monitor --once {monitor_s:.1f} s, ledger {ledger_s:.1f} s")
        assert len(json.loads(read)["loops"]) == len(names)
    return {
        "loops": loops,
        "publish_s": publish_s,
        "monitored": len(names),
        "monitor_once_s": monitor_s,
        "ledger_s": ledger_s,
    }


def loop_files(folder: Path, count: int) -> list[Path]:
    """Write *count* loop files that nobody has published."""
    run = uuid.uuid4().hex[:6]
    files = [folder / f"fleet-{run}-{number}.yaml" for number in range(count)]
    for path in files:
        tree = loop(path.stem).model_copy(update={"partitions": 1})
        written = tree.model_dump(mode="json", exclude_unset=True)
        path.write_text(yaml.safe_dump(written, sort_keys=False))
    return files


def timed(arguments: Sequence[str], env: Mapping[str, str]) -> tuple[float, str]:
    """Run a command of tidemill; return its seconds and its output."""
    started = time.monotonic()
    done = subprocess.run(
        tidemill_command(*arguments),
        env=dict(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {done.stderr}")
    return time.monotonic() - started, done.stdout
