"""Ledger and audit beside workers that write, are killed and come back: true at every moment."""

import re
import signal
import urllib.request
from pathlib import Path

import pytest
from tests.streams.rig import START, Rig, end, new_rig, send_traffic, until

from tidemill.cli.app import main
from tidemill.features.audit.audit import Effort, audit
from tidemill.kafka import KafkaConfig
from tidemill.monitor.ledger import ledger
from tidemill.schemas import topics

pytestmark = pytest.mark.kafka

EFFORT = Effort(threads=1, memory_mb=256)


def metric(rig: Rig, pid: int, name: str) -> float:
    """Return a counter of a worker; 0 before it has counted."""
    address = f"http://127.0.0.1:{rig.ports[pid]}/metrics"
    with urllib.request.urlopen(address, timeout=60) as answer:
        found = re.search(rf"^{name}{{.*}} (\S+)$", answer.read().decode(), re.M)
    return float(found[1]) if found else 0.0


@pytest.mark.soak
def test_ledger_and_audit_are_true_while_a_worker_writes(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """An operator reads them in the middle of the work, and above all after a crash."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    often = {"TIDEMILL_COMMIT_S": "0.1", "TIDEMILL_AUDIT_S": "0.5", "TIDEMILL_FETCH_RECORDS": "500"}
    worker = rig.start(**often)
    until(lambda: rig.lake.has_table(rig.loop.loop, "examples"), "there are tables")
    versions, compared, is_killed, last = set(), 0, False, START
    try:
        for part in range(10):
            numbers = range(part * 3_000, (part + 1) * 3_000)
            last = max(last, send_traffic(rig.producer(), numbers, part, per_second=100))
            is_read = False
            while not is_read:
                is_read = rig.is_read()
                for account in ledger(rig.lake, rig.loop):
                    assert account.is_balanced, account
                report = audit(rig.lake, rig.loop.loop, effort=EFFORT)
                assert report.agrees, [str(found) for found in report.first]
                versions.add(report.versions["examples"])
                compared = max(compared, report.decisions)
                if compared > 3_000 and not is_killed:
                    worker.send_signal(signal.SIGKILL)
                    worker.wait()
                    worker, is_killed = rig.start(**often), True
        rig.close(last)
        until(rig.is_done, "everything is closed")
        until(lambda: metric(rig, worker.pid, "tidemill_audit_rows_total") > 0, "an audit")
        assert metric(rig, worker.pid, "tidemill_audit_differences_total") == 0
    finally:
        assert end(worker) == 0
    assert is_killed
    assert len(versions) > 3, "the lake got commits meanwhile"
    for account in ledger(rig.lake, rig.loop):
        assert account.is_balanced, account
    report = audit(rig.lake, rig.loop.loop, effort=EFFORT)
    assert report.agrees, [str(found) for found in report.first]
    assert report.decisions == sum(
        end for (log, _), end in rig.ends().items() if log == "decisions"
    )


def test_a_decision_that_could_not_be_read_is_traced_to_its_dead_letter(
    kafka: KafkaConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is in no table, although the service has sent it."""
    rig = new_rig(kafka, tmp_path)
    producer = rig.producer()
    producer.send(topics.decisions(rig.loop.loop), "broken", b"no event at all")
    producer.decide("whole", START)
    producer.flush()
    worker = rig.start()
    try:
        until(lambda: rig.lake.has_table(rig.loop.loop, "examples") and rig.is_read(), "it is read")
    finally:
        assert end(worker) == 0
    monkeypatch.setenv("TIDEMILL_LAKE", rig.lake.root)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    assert main(["trace", "broken"]) == 2
    printed = capsys.readouterr().err
    assert "decision broken could not be read: unknown-schema" in printed
    assert f"tidemill dead-letters show --letter {topics.decisions(rig.loop.loop)}/" in printed
    assert main(["trace", "whole"]) == 0
    assert "waits for" in capsys.readouterr().out
