"""The line a minute: what was done since the line before, for each loop."""

import logging

import pytest
from prometheus_client import CollectorRegistry, Counter

from tidemill.serving.api import metrics as serving_metrics
from tidemill.serving.api.metrics import registry_of
from tidemill.serving.worker import ServingWorkerConfig, Worker
from tidemill.streams import metrics as streams_metrics
from tidemill.streams.metrics import StreamMetrics
from tidemill.trainers import metrics as trainer_metrics
from tidemill.trainers.metrics import TrainerMetrics
from tidemill.work_log import WorkLog

COUNTED = {"rows_total": "rows read", "dead_total": "dead letters"}


def counters() -> tuple[CollectorRegistry, Counter, Counter]:
    """Return a registry and its two counters."""
    registry = CollectorRegistry()
    rows = Counter("rows", "x", ["loop", "log"], registry=registry)
    return registry, rows, Counter("dead", "x", ["loop"], registry=registry)


def test_a_line_tells_what_is_new_for_each_loop_that_did_anything() -> None:
    """A total since the start does not show that it stands still."""
    registry, rows, dead = counters()
    rows.labels("before", "decisions").inc(7)
    log = WorkLog(registry, COUNTED)
    rows.labels("ad", "decisions").inc(1_000)
    rows.labels("ad", "feedback").inc(234)
    dead.labels("ad").inc()
    rows.labels("mail", "feedback").inc()
    assert list(log.told()) == [("ad", "1,234 rows read, 1 dead letters"), ("mail", "1 rows read")]
    assert list(log.told()) == []


def test_the_line_is_logged_with_its_loop_and_an_idle_process_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Silence does not tell a quiet hour from a hung process."""
    registry, rows, _dead = counters()
    logged = [logging.getLogger("tidemill.work_log")]
    with caplog.at_level(logging.INFO, logger=logged[0].name):
        log = WorkLog(registry, COUNTED, every_s=0.001)
        rows.labels("ad", "decisions").inc()
        with log:
            while not any("nothing" in one.getMessage() for one in caplog.records):
                pass
    first = next(one for one in caplog.records if "rows read" in one.getMessage())
    assert first.__dict__["loop"] == "ad"


def test_what_is_told_are_counters_that_the_processes_have() -> None:
    """A renamed counter would leave a line that says that there was nothing to do."""
    serving = registry_of(Worker(ServingWorkerConfig(kafka=None, name="w")))
    for registry, counted in (
        (StreamMetrics().registry, streams_metrics.WORK),
        (TrainerMetrics().registry, trainer_metrics.WORK),
        (serving, serving_metrics.WORK),
    ):
        known = {f"{metric.name}_total" for metric in registry.collect()}
        assert counted.keys() <= known
