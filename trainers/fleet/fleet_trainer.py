"""The process that trains every loop it owns, until SIGTERM.

One thread gives each due loop a step: a cheap look for commits, then a slice of online learning,
and the count of its labels. Another trains in batch, one loop after the other. A loop that fails
is told and tried again after a backoff; one that is fenced is left to the other trainer.

Delivery: as `trainers/trainer.py`. What two processes do for one loop at a time, the registry
accepts from one of them.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from tidemill.errors import FencedError, TidemillError
from tidemill.features.lake.lake import Lake
from tidemill.kafka import BadRecords
from tidemill.log_fields import log_fields
from tidemill.schemas.control import ControlMessage, NewExamples
from tidemill.schemas.published import used_loops
from tidemill.trainers.commit_log import LabelCount
from tidemill.trainers.fleet.fleet_config import FleetConfig
from tidemill.trainers.fleet.heartbeats import FleetHeartbeats
from tidemill.trainers.fleet.model_topic import SharedModelTopic
from tidemill.trainers.fleet.new_commits import NewCommits, Versions
from tidemill.trainers.fleet.open_cycles import OpenCycles, TakenCycle
from tidemill.trainers.fleet.ownership import Ownership, partition_of
from tidemill.trainers.fleet.published_loops import PublishedLoops
from tidemill.trainers.fleet.schedule import FleetSchedule
from tidemill.trainers.maintenance import Maintenance
from tidemill.trainers.metrics import TrainerMetrics
from tidemill.trainers.model_trial import Trial
from tidemill.trainers.publisher import Publisher
from tidemill.trainers.registry import ModelVersion
from tidemill.trainers.trainer import NewestCycle, gauge

logger = logging.getLogger(__name__)

OnLoopVersion = Callable[[str, ModelVersion], object]

_LOOK_S = 0.5  # the longest wait for a loop to become due
_LOOP = "loop"  # beside the versions of tables: that of the loop
_COUNT_S = 1.0  # until labels are counted that a loop may not count yet


class FleetTrainer:
    """Trains the loops whose partitions the group gives to this process.

    Args:
        config: its settings.
        trial: what a model must survive before it is promoted.
        on_version: called with a loop and its new version, once that is in the registry.
        metrics: of all loops.
        bad: gets the bad records of the shared topics.
    """

    def __init__(
        self,
        config: FleetConfig,
        *,
        trial: Trial,
        on_version: OnLoopVersion,
        metrics: TrainerMetrics,
        bad: BadRecords,
    ) -> None:
        self._config, self._trial = config, trial
        self._on_version, self._metrics = on_version, metrics
        self._lake = Lake(config.lake)
        self._topic = SharedModelTopic(config.kafka)
        self._beats = FleetHeartbeats(config.kafka, config.key)
        self._commits = NewCommits(self._lake)
        self._cycles = OpenCycles(self._holder, most=config.open_loops)
        self._schedule = FleetSchedule(poll_s=config.poll_s, batch_share=config.batch_share)
        self._lock = threading.Lock()  # of the schedule
        self._is_due, self._is_batch_due = threading.Event(), threading.Event()
        self._counts: dict[str, LabelCount] = {}  # of the loops that wait for a batch
        self._maintenance: dict[str, Maintenance] = {}
        self._partitions: frozenset[int] = frozenset()
        self._versions: dict[str, int] = {}  # of the owned loops
        self._has_changed = threading.Event()
        self._loops = PublishedLoops(config.kafka, self._changed, self._hear, bad)
        self._ownership = Ownership(config.kafka, config.group, self._owns)

    def run(self, stop: threading.Event) -> None:
        """Train until *stop* is set.

        Raises:
            RuntimeError: one of its threads has ended by an error.
        """
        batches = threading.Thread(target=self._batches, args=(stop,), name="batch-training")
        self._loops.start()
        self._ownership.start()
        batches.start()
        try:
            while not stop.is_set():
                self._check(batches)
                self._own()
                if not self._work(self._step, is_batch=False):
                    self._is_due.wait(_LOOK_S)
                    self._is_due.clear()
                self._beat()
        finally:
            stop.set()
            self._is_batch_due.set()
            batches.join()
            self._ownership.close()
            self._loops.close()
            self._beats.close()
            self._topic.close()

    def _check(self, batches: threading.Thread) -> None:
        self._loops.check()
        self._ownership.check()
        if not batches.is_alive():
            raise RuntimeError("the thread that trains in batch has ended")

    def _batches(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if not self._work(self._train, is_batch=True):
                self._is_batch_due.wait(_LOOK_S)
                self._is_batch_due.clear()

    def _work(self, work: Callable[[str], None], *, is_batch: bool) -> bool:
        """Do *work* for the loop that waits longest; return False if none is due."""
        with self._lock:
            loop = self._schedule.take(time.monotonic(), is_batch=is_batch)
        if loop is None:
            return False
        with log_fields(loop=loop):
            try:
                work(loop)
            except FencedError as error:
                self._drop(loop)
                with self._lock:
                    self._schedule.fence(loop, time.monotonic())
                logger.warning("%s is left to another trainer: %s", loop, error.what)
            except Exception as error:  # the outermost loop of the work on one loop: others go on
                self._drop(loop)
                with self._lock:
                    pause_s = self._schedule.failed(loop, time.monotonic())
                self._metrics.failures.labels(loop).inc()
                _tell(loop, error, pause_s)
        return True

    def _step(self, loop: str) -> None:
        """Look for new commits, and if there are any learn a slice of them and count the labels."""
        versions = {**self._commits.newest(loop), _LOOP: self._versions.get(loop, 0)}
        if self._commits.is_settled(loop, versions):
            self._done(loop)
            self._beats.repeat(loop)
            return
        self._commits.unsettle(loop)
        taken = self._cycles.take(loop, self._loops.published)
        cycle, end_s = taken.cycle, time.monotonic() + self._config.slice_s
        is_learned = cycle.learn(is_over=lambda: time.monotonic() >= end_s)
        count = cycle.due_batch()
        self._give(taken)
        if count is not None:
            self._counts[loop] = count
            with self._lock:
                self._schedule.wants_batch(loop, time.monotonic())
            self._is_batch_due.set()
        elif not is_learned:
            self._done(loop, again_s=0.0)
        else:
            self._learned(loop, versions, taken)

    def _learned(self, loop: str, versions: Versions, taken: TakenCycle) -> None:
        """Settle *loop*, unless its labels are still to be counted, and compact its tables."""
        cycle = taken.cycle
        if cycle.is_counted and not cycle.has_left_out:
            self._commits.settle(loop, versions)
        if loop not in self._maintenance:
            every_s, files = self._config.tidy_every_s, self._config.tidy_files
            tidy = Maintenance(self._lake, loop, every_s=every_s, files=files)
            self._maintenance[loop] = tidy
        self._maintenance[loop].run_if_due()
        self._done(loop, again_s=None if cycle.is_counted else _COUNT_S)

    def _train(self, loop: str) -> None:
        """Train *loop* in batch on the labels that its step has counted."""
        count = self._counts.pop(loop, None)
        if count is None:  # the loop was dropped, and taken up again, meanwhile
            self._done(loop, again_s=0.0)
            return
        taken = self._cycles.take(loop, self._loops.published)
        self._config.check_memory(taken.cycle.loop, count.labels)
        started_s = time.monotonic()
        try:
            taken.cycle.train(count)
        finally:
            with self._lock:
                self._schedule.trained(time.monotonic() - started_s, time.monotonic())
        self._give(taken)
        self._done(loop, again_s=0.0)

    def _done(self, loop: str, *, again_s: float | None = None) -> None:
        with self._lock:
            self._schedule.done(loop, time.monotonic(), again_s=again_s)

    def _give(self, taken: TakenCycle) -> None:
        """Keep the cycle and tell what it has come to, if its loop is still owned."""
        loop = taken.loop
        if partition_of(loop) not in self._partitions:
            return
        self._cycles.give(taken)
        self._beats.take(taken.cycle)
        gauge(self._metrics, loop, taken.cycle)

    def _drop(self, loop: str) -> None:
        """Remember nothing of *loop*."""
        self._cycles.drop(loop)
        self._commits.forget(loop)
        self._beats.forget(loop)
        self._counts.pop(loop, None)
        self._maintenance.pop(loop, None)

    def _holder(self, loop: str) -> NewestCycle:
        return NewestCycle(
            loop,
            self._lake,
            Publisher(self._topic, loop, self._config.key),
            trial=self._trial,
            on_version=self._metrics.reporting(loop, partial(self._on_version, loop)),
            metrics=self._metrics,
        )

    def _changed(self) -> None:
        self._has_changed.set()
        self._is_due.set()

    def _owns(self, partitions: frozenset[int]) -> None:
        logger.info("%d of the partitions of the trainers are owned", len(partitions))
        self._partitions = partitions
        self._changed()

    def _own(self) -> None:
        """Take up the loops that are owned by now, and drop those that are not."""
        if not self._has_changed.is_set():
            return
        self._has_changed.clear()
        versions: dict[str, int] = {}
        for name, definition in used_loops(self._loops.published).items():
            is_asked = not self._config.loops or name in self._config.loops
            if is_asked and partition_of(name) in self._partitions:
                versions[name] = definition.version
        self._versions = versions
        with self._lock:
            dropped = self._schedule.own(versions, time.monotonic())
        for loop in dropped:
            self._drop(loop)
            self._metrics.forget(loop)

    def _hear(self, message: ControlMessage) -> None:
        """Take a message of the control topic, in the thread that reads it."""
        now_s = time.monotonic()
        with self._lock:
            for loop in self._beats.heard(message):
                self._schedule.heard(loop, now_s)
            if isinstance(message, NewExamples) and self._commits.is_new(
                message.loop, message.version
            ):
                self._schedule.wake(message.loop, now_s)
                self._is_due.set()

    def _beat(self) -> None:
        """Tell the others, and the metrics, which loops this process trains."""
        if not self._beats.is_due():
            return
        now_s = time.monotonic()
        with self._lock:
            loops, fenced = self._schedule.loops, self._schedule.fenced
            waited = {
                kind: self._schedule.waited_s(now_s, is_batch=kind == "batch")
                for kind in ("online", "batch")
            }
        self._beats.beat(loops)
        self._metrics.show(loops, fenced, waited)


def _tell(loop: str, error: Exception, pause_s: float) -> None:
    if isinstance(error, TidemillError):
        logger.warning("%s is tried again in %.0f s: %s", loop, pause_s, error)
    else:
        logger.error("%s is tried again in %.0f s", loop, pause_s, exc_info=error)
