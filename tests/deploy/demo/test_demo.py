"""The demo itself, in short: every process for real, and a report that adds up."""

import json
import os
import uuid
from pathlib import Path

import pytest
from rich.console import Console

from tidemill.deploy.demo.demo import DemoConfig, load_past, run_demo
from tidemill.deploy.demo.flights import LOOP_FILE
from tidemill.errors import ConfigError
from tidemill.kafka import KafkaConfig

DAYS = 5


def small_loop(folder: Path) -> Path:
    """Write the flights' loop with learners that are content with few rows."""
    text = LOOP_FILE.read_text()
    for old, new in [
        ("loop: flight-delay", f"loop: flights-{uuid.uuid4().hex[:8]}"),
        ("min_labels: 15000", "min_labels: 1000"),
        ("new_labels: 50000", "new_labels: 1500"),
        ("publish_every: 20000", "publish_every: 1000"),
        ("min_rows: 500", "min_rows: 100"),
    ]:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "small.yaml"
    path.write_text(text)
    return path


@pytest.mark.kafka
def test_a_short_demo_turns_the_whole_loop(kafka: KafkaConfig, tmp_path: Path) -> None:
    """If any package does not fit the others, this is where it shows."""
    config = DemoConfig(
        folder=tmp_path / "demo",
        report=tmp_path / "report.json",
        days=DAYS,
        loop_file=small_loop(tmp_path),
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap},
    )
    run_demo(config, Console(width=160))
    report = json.loads(config.report.read_text())
    past = load_past(DAYS)
    assert report["kafka"]["kind"] == "env"
    assert report["decisions"] == past.decisions.height
    assert report["feedback"] == past.feedback.height
    assert sum(report["examples"].values()) == past.decisions.height
    assert report["examples"]["late"] == report["examples"]["duplicate"] == 0
    assert report["ledger_balanced"] is True
    assert report["duplicates"] == 0
    assert sum(report["sources"].values()) == past.decisions.height
    learners = {model["version"].rsplit("-", 1)[0] for model in report["models"]}
    assert learners == {"lightgbm", "logistic_regression"}
    assert all(model["reason"] for model in report["models"])
    assert [month["month"] for month in report["months"]] == ["2013-01"]
    assert report["decision_ms"]["p50"] > 0
    assert report["restarts"] == dict.fromkeys(
        ("worker", "serve-1", "serve-2", "train", "monitor"), 0
    )


def test_a_folder_that_is_not_a_demos_is_not_emptied(tmp_path: Path) -> None:
    """One wrong argument must not cost a home directory."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        run_demo(DemoConfig(folder=tmp_path), Console(quiet=True))
    assert (tmp_path / "thesis.tex").exists()
