"""The worker's audit: it begins where the last one ended, and a wrong row becomes an alarm."""

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pytest
from prometheus_client import generate_latest
from tests.features.audited import PARTITION, GrowingLake
from tests.features.streamlakes import SHOP
from tests.streams.join_logs import LOOP, SECOND, Shell, random_logs

from tidemill.features.audit.audit import Interrupt
from tidemill.features.audit.report import AuditReport
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.audits import AuditTimer, LoopAudit

CORRECTED = LOOP.model_copy(update={"corrections": 20 * SECOND})
CORRECTED_SHOP = SHOP.model_copy(update={"corrections": 20 * SECOND})


def until(true: Callable[[], object]) -> None:
    """Return as soon as *true* holds; fail after a minute."""
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loop",
    [pytest.param(LOOP, marks=pytest.mark.soak), CORRECTED, CORRECTED_SHOP],
    ids=["plain", "corrected", "three logs"],
)
def test_each_audit_reads_only_what_is_new(tmp_path: Path, loop: Loop) -> None:
    """Its cost follows the traffic, not the size of the lake; no row is left out or read twice."""
    for seed in range(2):
        rng = random.Random(seed)
        stream = Shell(random_logs(rng, 120, streams=len(loop.logs) > 2), JoinRules.of(loop))
        growing = GrowingLake(stream, tmp_path / f"{seed}", loop)
        growing.follow()
        audit = LoopAudit(growing.lake, loop, lambda: [PARTITION])
        assert audit.run() is None, "the first audit only records where to begin"
        reports: list[AuditReport] = []
        for _ in range(12):
            stream.poll(rng.choice(loop.logs), rng.choice((3, 9, 20)))
            if rng.random() < 0.2:
                stream.advance(rng.choice(loop.logs), rng.randint(0, 60))
            stream.commit(crash_after=rng.choice((1, 2, 3, 3, 3)))
            growing.follow()
            report = audit.run()
            reports += [report] if report else []
        stream.finish()
        growing.follow()
        last = audit.run()
        assert last is not None
        reports.append(last)
        assert all(report.agrees for report in reports), [each.first for each in reports]
        assert sum(report.decisions for report in reports) == stream.offsets[DECISIONS]
        feedback = sum(stream.offsets.values()) - stream.offsets[DECISIONS]
        assert sum(report.feedback for report in reports) == feedback
        assert audit.run() is None, "nothing is new"


def test_a_partition_that_is_assigned_again_begins_from_its_current_state(tmp_path: Path) -> None:
    """Another worker audited the windows that it closed meanwhile."""
    stream = Shell(random_logs(random.Random(3), 120))
    growing = GrowingLake(stream, tmp_path)
    owned = [PARTITION]
    audit = LoopAudit(growing.lake, LOOP, lambda: owned)
    audit.run()
    owned.clear()
    audit.run()
    assert not audit.reached
    stream.finish()
    growing.follow()
    owned.append(PARTITION)
    assert audit.run() is None
    assert audit.reached[PARTITION].positions[DECISIONS] == stream.offsets[DECISIONS]


def one_wrong(frame: pl.DataFrame) -> pl.DataFrame:
    """Change the label of the first row that has one."""
    first = pl.col("label").is_not_null().cum_sum() == 1
    label = pl.when(first).then(pl.col("label") + 1).otherwise(pl.col("label"))
    return frame.with_columns(label.alias("label"))


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [True, False])
def test_a_wrong_row_is_an_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, wrong: bool
) -> None:
    """A counter to alert on, and an error in the log that names the decision; silence otherwise."""
    stream = Shell(random_logs(random.Random(3), 120))
    growing = GrowingLake(stream, tmp_path)
    growing.follow()
    metrics = StreamMetrics()
    audit = LoopAudit(growing.lake, LOOP, lambda: [PARTITION])
    with caplog.at_level(logging.INFO, "tidemill.streams.runtime.audits"):
        timer = AuditTimer([audit], metrics, every_s=0.01)
        until(lambda: audit.reached)
        stream.finish()
        growing.follow(one_wrong if wrong else lambda frame: frame)
        until(lambda: audit.reached[PARTITION].frontier > 0)
        timer.close()
    exposed = generate_latest(metrics.registry).decode()
    assert f'tidemill_audit_differences_total{{loop="shop"}} {float(wrong)}' in exposed
    assert 'tidemill_audit_rows_total{loop="shop"}' in exposed
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == wrong
    assert all("label is" in error and "hint:" in error for error in errors)


def explored(frame: pl.DataFrame) -> pl.DataFrame:
    """Say of each decision that it was explored, and hardly could have been."""
    return frame.with_columns(pl.lit(0.01).alias("propensity"))


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [True, False])
def test_a_propensity_that_cannot_be_is_an_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, wrong: bool
) -> None:
    """The gate rests on propensities, and nothing else would notice."""
    stream = Shell(random_logs(random.Random(3), 120))
    growing = GrowingLake(stream, tmp_path)
    growing.follow()
    metrics = StreamMetrics()
    audit = LoopAudit(growing.lake, LOOP, lambda: [PARTITION])
    timer = AuditTimer([audit], metrics, every_s=0.01)
    until(lambda: audit.reached)
    stream.finish()
    if wrong:
        stream.raw[DECISIONS] = [explored(frame) for frame in stream.raw[DECISIONS]]
    growing.follow(explored if wrong else lambda frame: frame)
    until(lambda: audit.reached[PARTITION].frontier > 0)
    timer.close()
    exposed = generate_latest(metrics.registry).decode()
    assert f'tidemill_audit_propensities_wrong{{loop="shop"}} {float(wrong)}' in exposed
    assert ('tidemill_audit_propensity_ratio{action="false"' in exposed) == wrong
    assert ("not taken as often as their propensities say" in caplog.text) == wrong


def test_a_lake_that_cannot_be_read_is_audited_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed audit never ends the worker, and the next one begins from the same state."""
    stream = Shell(random_logs(random.Random(3), 120))
    growing = GrowingLake(stream, tmp_path)
    growing.follow()
    audit = LoopAudit(growing.lake, LOOP, lambda: [PARTITION])
    audit.run()
    reached = dict(audit.reached)
    stream.finish()
    growing.follow()
    hidden = tmp_path / "shop" / "hidden"
    (tmp_path / "shop" / "examples").rename(hidden)
    timer = AuditTimer([audit], StreamMetrics(), every_s=0.01)
    until(lambda: "was not audited" in caplog.text)
    assert audit.reached == reached
    hidden.rename(tmp_path / "shop" / "examples")
    until(lambda: audit.reached != reached)
    timer.close()


class EndlessAudit(LoopAudit):
    """An audit that would take days."""

    has_begun = has_ended = False

    def run(self, on_begin: Callable[[Interrupt], None] = lambda _interrupt: None) -> None:
        """Count until it is interrupted."""
        with duckdb.connect() as connection:
            on_begin(connection.interrupt)
            self.has_begun = True
            try:
                connection.execute("SELECT sum(hash(range)) FROM range(1000000000000)").fetchall()
            finally:
                self.has_ended = True


def test_a_worker_that_ends_does_not_wait_for_its_audit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGTERM has to work within seconds, whatever the lake's size."""
    audit = EndlessAudit(GrowingLake(Shell(random_logs(random.Random(3))), tmp_path).lake, LOOP,
                         lambda: [PARTITION])  # fmt: skip
    timer = AuditTimer([audit], StreamMetrics())
    until(lambda: audit.has_begun)
    timer.close()
    assert audit.has_ended
    assert "was not audited" not in caplog.text
