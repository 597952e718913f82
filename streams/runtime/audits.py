"""The worker's own audit: DuckDB recomputes the windows closed since the last audit.

It runs in a thread of its own, on one core at most and a twentieth of a core on average; the join
never waits for it. Its state is in memory: after a restart, and for a partition that another worker
owned before, it begins with the current state of the lake. `tidemill audit` audits the windows
closed in between; it needs no such state.
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
from tidemill.features.audit.propensities import PropensityAudit
from tidemill.features.audit.report import AuditReport
from tidemill.features.audit.spans import AuditSpan, PartitionState, read_partition_states
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS
from tidemill.features.sql.views import snapshot
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.metrics import StreamMetrics

logger = logging.getLogger(__name__)

EVERY_S = 300.0
SHARE_OF_A_CORE = 1 / 20  # the pause after an audit is at least so much longer than the audit
EFFORT = Effort(memory_mb=128, threads=1, rows=100_000, shares=1, shown=5)
_STOP_S = 2.0  # an interrupted query ends at once
_BEGIN_S = 1.0  # the pause while there are no partitions yet


@dataclass(slots=True)
class LoopAudit:
    """The audits of one loop: for each partition, the state that the next audit begins from.

    *owned* returns the partitions that this worker owns now. *begins* has the state of each
    partition at its first audit, *reached* that at its last.
    """

    lake: Lake
    loop: Loop
    owned: Callable[[], Collection[int]]
    begins: dict[int, PartitionState] = field(default_factory=dict)
    reached: dict[int, PartitionState] = field(default_factory=dict)
    propensities: PropensityAudit = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no decision compared."""
        self.propensities = PropensityAudit(self.loop)

    def run(
        self, on_begin: Callable[[Interrupt], None] = lambda _interrupt: None
    ) -> AuditReport | None:
        """Audit what was read and closed since the last audit; None if nothing was.

        *on_begin* gets a function with which another thread can interrupt the audit.

        Raises:
            LakeError: the lake cannot be read; the next audit begins from the same state.
        """
        owned = set(self.owned())
        versions = snapshot(self.lake, self.loop)
        states = read_partition_states(self.lake, self.loop, versions)
        for number in self.reached.keys() - owned:
            del self.reached[number], self.begins[number]
        spans = [
            AuditSpan(
                partition=number,
                start=start,
                end=states[number],
                begin=self.begins[number],
            )
            for number, start in self.reached.items()
            if start != states[number]
        ]
        report = None
        if spans:
            report = audit_spans(
                self.lake, [(self.loop, spans)], versions, effort=EFFORT, on_begin=on_begin
            )
            decisions = self.lake.table(self.loop.loop, DECISIONS)
            self.propensities.take(decisions, spans, versions[DECISIONS], on_begin)
        for number in owned:
            self.begins.setdefault(number, states[number])
            self.reached[number] = states[number]
        return report


class AuditTimer:
    """Audits loops at intervals, until it is closed."""

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
        """Stop, and interrupt the audit if one is running."""
        self._stopped.set()
        deadline = time.monotonic() + _STOP_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            if self._interrupt is not None:
                with contextlib.suppress(duckdb.Error):  # it may have just ended by itself
                    self._interrupt()
            self._thread.join(0.05)  # an interrupt between two queries has no effect: repeat it

    def _work(self) -> None:
        pause_s = 0.0  # the first pass only records the state to begin from
        while not self._stopped.wait(pause_s):
            started = time.monotonic()
            for each in self._audits:
                try:
                    self._report(each.loop.loop, each.run(self._begun))
                    self._report_propensities(each.loop.loop, each.propensities)
                except LakeError as error:
                    logger.warning("%s was not audited: %s", each.loop.loop, error)
                except Exception:  # the outermost loop of a thread: the worker continues
                    if self._stopped.is_set():
                        return
                    logger.exception("%s was not audited", each.loop.loop)
            taken_s = time.monotonic() - started
            has_begun = any(each.reached for each in self._audits)
            pause_s = max(self._every_s, taken_s / SHARE_OF_A_CORE) if has_begun else _BEGIN_S

    def _begun(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def _report_propensities(self, loop_name: str, found: PropensityAudit) -> None:
        for action, ratio in found.ratios().items():
            self._metrics.propensity_ratio.labels(loop_name, action).set(ratio)
        self._metrics.propensities_wrong.labels(loop_name).set(not found.agrees)
        if not found.agrees:
            told = ", ".join(f"{name} {ratio:.3f}" for name, ratio in found.ratios().items())
            logger.error(
                "%s: actions are not taken as often as their propensities say; taken over expected "
                "in %d decisions: %s\n  hint: estimates of policies are wrong until this is found: "
                "is there a producer of decisions beside the workers, or a worker of another "
                "release?",
                *(loop_name, found.decisions, told),
            )

    def _report(self, loop_name: str, report: AuditReport | None) -> None:
        if report is None:
            return
        self._metrics.audited.labels(loop_name).inc(report.decisions + report.feedback)
        self._metrics.audit_seconds.labels(loop_name).inc(report.seconds)
        self._metrics.differences.labels(loop_name).inc(report.differences)
        share = "" if report.is_whole else ", a share of their ids"
        logger.info(
            "%s: audited %d decisions and %d feedback%s in %.2f s",
            *(loop_name, report.decisions, report.feedback, share, report.seconds),
        )
        for difference in report.first:
            logger.error("%s: %s\n  hint: %s", loop_name, difference, difference.hint)
        if report.differences > len(report.first):
            logger.error("%s: %d differences in all", loop_name, report.differences)
