"""The worker's own audit: what it closed since the last time, computed anew by DuckDB.

A thread of its own, one core at most and a twentieth of that on average; the join never waits for
it. What it remembers is in this process alone: after a restart, and for a partition that comes
over from another worker, it goes on from where the lake stands then. What was closed in between is
left to `tidemill audit`, which needs no memory.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import duckdb

from tidemill.errors import LakeError
from tidemill.features.audit.audit import Effort, Interrupt, audit_spans
from tidemill.features.audit.report import AuditReport
from tidemill.features.audit.spans import AuditSpan, PartitionState, read_partition_states
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.views import snapshot
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.metrics import StreamMetrics

log = logging.getLogger(__name__)

EVERY_S = 300.0
SHARE_OF_A_CORE = 1 / 20  # an audit that took long is followed by a pause that is longer
EFFORT = Effort(memory_mb=128, threads=1, rows=100_000, shares=1, shown=5)
_STOP_S = 2.0  # an interrupted query ends at once
_BEGIN_S = 1.0  # how often it is looked whether there are partitions to begin with


@dataclass(slots=True)
class LoopAudit:
    """What is known of the audits of one loop: where the next one begins, by partition.

    *held* returns the partitions this worker owns now.
    """

    lake: Lake
    loop: Loop
    held: Callable[[], Collection[int]]
    begins: dict[int, PartitionState] = field(default_factory=dict)
    marks: dict[int, PartitionState] = field(default_factory=dict)

    def run(
        self, on_begin: Callable[[Interrupt], None] = lambda _interrupt: None
    ) -> AuditReport | None:
        """Audit what was closed and read since the last time; None if that is nothing.

        *on_begin* is told how another thread can end it.

        Raises:
            LakeError: the lake cannot be read; the next time begins where this one did.
        """
        held = set(self.held())
        versions = snapshot(self.lake, self.loop)
        reached = read_partition_states(self.lake, self.loop, versions)
        for number in self.marks.keys() - held:
            del self.marks[number], self.begins[number]
        spans = [
            AuditSpan(
                partition=number,
                start=mark,
                end=reached[number],
                begin=self.begins[number],
            )
            for number, mark in self.marks.items()
            if mark != reached[number]
        ]
        report = None
        if spans:
            report = audit_spans(
                self.lake, [(self.loop, spans)], versions, effort=EFFORT, on_begin=on_begin
            )
        for number in held:
            self.begins.setdefault(number, reached[number])
            self.marks[number] = reached[number]
        return report


class AuditTimer:
    """Audits loops every so often, until it is closed."""

    def __init__(
        self,
        audits: Sequence[LoopAudit],
        metrics: StreamMetrics,
        *,
        every_s: float = EVERY_S,
    ) -> None:
        self._audits = audits
        self._metrics = metrics
        self._every_s = every_s
        self._stopped = threading.Event()
        self._interrupt: Interrupt | None = None
        self._thread = threading.Thread(target=self._work, name="audits", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give up the audit that runs, if one does."""
        self._stopped.set()
        deadline = time.monotonic() + _STOP_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            if self._interrupt is not None:
                with contextlib.suppress(duckdb.Error):  # it has just ended by itself
                    self._interrupt()
            self._thread.join(0.05)  # between two queries an interruption is not noticed

    def _work(self) -> None:
        pause_s = 0.0  # the first look only marks where to begin
        while not self._stopped.wait(pause_s):
            started = time.monotonic()
            for each in self._audits:
                try:
                    self._tell(each.loop.loop, each.run(self._begun))
                except LakeError as error:
                    log.warning("%s was not audited: %s", each.loop.loop, error)
                except Exception:  # the outermost loop of a thread: the worker's work goes on
                    if self._stopped.is_set():
                        return
                    log.exception("%s was not audited", each.loop.loop)
            taken_s = time.monotonic() - started
            has_begun = any(each.marks for each in self._audits)
            pause_s = max(self._every_s, taken_s / SHARE_OF_A_CORE) if has_begun else _BEGIN_S

    def _begun(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def _tell(self, loop_name: str, report: AuditReport | None) -> None:
        if report is None:
            return
        self._metrics.audited.labels(loop_name).inc(report.decisions + report.feedback)
        self._metrics.audit_seconds.labels(loop_name).inc(report.seconds)
        self._metrics.differences.labels(loop_name).inc(report.differences)
        share = "" if report.is_whole else ", a share of their ids"
        log.info(
            "%s: audited %d decisions and %d feedback%s in %.2f s",
            *(loop_name, report.decisions, report.feedback, share, report.seconds),
        )
        for found in report.first:
            log.error("%s: %s\n  hint: %s", loop_name, found, found.hint)
        if report.differences > len(report.first):
            log.error("%s: %d differences in all", loop_name, report.differences)
