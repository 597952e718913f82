"""The trainer process: one training cycle of a loop after another, until SIGTERM.

Delivery: every commit of ``examples`` is learned once, and every version is registered and
published once, whenever the process is killed (`cycle.py`). While no broker answers, new versions
wait in the lake. Any other error ends the process with what and hint, and its supervisor starts it
again. Between two versions the trainer merges small files of the lake (`maintenance.py`).

Longer than 300 lines because settings, metrics and the newest cycle of the process are here.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from tidemill.errors import BrokerError, ConfigError, ContractError, LoopError, TidemillError
from tidemill.features.lake.compaction import MANY_FILES
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import BadRecords, KafkaConfig, Outages
from tidemill.log_fields import log_fields
from tidemill.metrics_page import MetricsPage
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import compile_label
from tidemill.schemas.models.manifest import DEFAULT
from tidemill.schemas.models.signing import SigningKey
from tidemill.schemas.published import (
    Published,
    fetch_loops,
    retired_error,
    unpublished,
    versions,
)
from tidemill.stop_signals import STOP_S, StopSignals
from tidemill.trainers.cycle import OnVersion, TrainingCycle
from tidemill.trainers.heartbeat import Heartbeat
from tidemill.trainers.maintenance import Maintenance
from tidemill.trainers.metrics import WORK, TrainerMetrics
from tidemill.trainers.model_trial import Trial
from tidemill.trainers.notifier import Notifier
from tidemill.trainers.publisher import KafkaModelTopic, Publisher
from tidemill.work_log import WorkLog

logger = logging.getLogger(__name__)

_RELOAD_CYCLES = 10  # a new version of the loop file is noticed after so many cycles


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """What a trainer trains, and its settings."""

    loop: str
    kafka: KafkaConfig
    lake: LakeConfig
    key: SigningKey
    once: bool = False  # train on the examples there are, then end
    poll_s: float = 1.0  # the longest wait for new examples that no message reports
    metrics: MetricsPage | None = None
    tidy_every_s: float = 300.0  # between two searches for small files
    tidy_files: int = MANY_FILES  # a table with at most so many small files is not compacted

    def __post_init__(self) -> None:
        if self.poll_s <= 0:
            raise ConfigError(f"poll_s is {self.poll_s}", hint="set it above zero, say 1.0")

    @classmethod
    def from_env(cls, env: Mapping[str, str], loop: str, *, once: bool = False) -> Self:
        """Read KAFKA_*, TIDEMILL_LAKE, TIDEMILL_SIGNING_KEY and, if set, TIDEMILL_METRICS_*.

        Raises:
            ConfigError: a setting is missing or wrong.
        """
        return cls(
            loop=loop,
            kafka=KafkaConfig.from_env(env),
            lake=LakeConfig.from_env(env),
            key=SigningKey.from_env(env),
            once=once,
            metrics=MetricsPage.asked(env),
        )


def run_trainer(
    config: TrainerConfig, *, trial: Trial, on_version: OnVersion = lambda _model: None
) -> int:
    """Train the models of one loop until SIGTERM or SIGINT, or once; return the exit status.

    Args:
        config: what to train and where.
        trial: what a model must survive before it is promoted.
        on_version: called with every version once it is in the registry.

    Raises:
        TidemillError: a setting, the loop, the lake or (when training once) the broker fails.
    """
    bad = BadRecords()
    metrics = TrainerMetrics(bad)
    if config.metrics is not None:
        config.metrics.serve(metrics.registry)
    publisher = Publisher(KafkaModelTopic(config.kafka), config.loop, config.key)
    report = metrics.reporting(config.loop, on_version)
    cycles = NewestCycle(
        config.loop, Lake(config.lake), publisher, trial=trial, on_version=report, metrics=metrics
    )

    def newest() -> TrainingCycle:
        return cycles.among(fetch_loops(config.kafka, bad))

    if config.once:
        newest().run(force=True)
    else:
        _run_until_stopped(config, newest, metrics, bad)
    return os.EX_OK


def _run_until_stopped(
    config: TrainerConfig,
    newest: Callable[[], TrainingCycle],
    metrics: TrainerMetrics,
    bad: BadRecords,
) -> None:
    stop = threading.Event()
    try:
        with log_fields(loop=config.loop), WorkLog(metrics.registry, WORK):
            first = Outages(config.kafka, "the trainer").waited(newest)
            with StopSignals(stop, within_s=STOP_S):
                _train_until(stop, config, first, newest, metrics, bad)
    except Exception as error:  # the outermost loop: who it was, for the log of many trainers
        logger.critical("the trainer of %s ends by a %s", config.loop, type(error).__name__)
        raise


def _train_until(
    stop: threading.Event,
    config: TrainerConfig,
    cycle: TrainingCycle,
    newest: Callable[[], TrainingCycle],
    metrics: TrainerMetrics,
    bad: BadRecords,
) -> None:
    notifier = Notifier(config.kafka, config.loop, stop, bad)
    maintenance = Maintenance(
        Lake(config.lake), config.loop, every_s=config.tidy_every_s, files=config.tidy_files
    )
    heartbeat = Heartbeat(config.kafka, config.key)
    count = 0
    try:
        while not stop.is_set():
            count += 1
            try:
                if count % _RELOAD_CYCLES == 0:
                    cycle = newest()
                if not cycle.run():
                    maintenance.run_if_due()
            except BrokerError as error:
                said = "no broker answers; new models wait in the lake: %s; hint: %s"
                logger.warning(said, error.what, error.hint)
            gauge(metrics, config.loop, cycle)
            heartbeat.beat(cycle)
            notifier.wait(config.poll_s)
    finally:
        notifier.close()
        heartbeat.close()


class NewestCycle:
    """The training cycle of the newest version of one loop that can be trained.

    A version that is unfit is told once, and the one before goes on.

    Args:
        loop_name: which loop.
        lake: where its examples and models are.
        publisher: what puts its models on the topic.
        trial: what a model must survive before it is promoted.
        on_version: called with each version once it is in the registry.
        metrics: get whether its newest version is refused.
    """

    def __init__(
        self,
        loop_name: str,
        lake: Lake,
        publisher: Publisher,
        *,
        trial: Trial,
        on_version: OnVersion,
        metrics: TrainerMetrics,
    ) -> None:
        self._loop_name, self._lake, self._publisher = loop_name, lake, publisher
        self._trial, self._on_version, self._metrics = trial, on_version, metrics
        self._current: TrainingCycle | None = None
        self._refused: set[str] = set()  # digests

    def among(self, published: Published) -> TrainingCycle:
        """Return the cycle of what is *published*: that of before if nothing newer can be trained.

        Raises:
            ContractError: there is no such loop, it is retired, or the lake refuses each version.
            LoopError: the label of each version is wrong.
            LakeError: the lake does not answer.
        """
        known = versions(published, self._loop_name)
        if known and (last := known[max(known)]).retired:
            raise retired_error(last)
        oldest = self._current.loop.version if self._current else 0
        errors: list[TidemillError] = []
        for version in sorted((number for number in known if number >= oldest), reverse=True):
            found = self._cycle(known[version])
            if isinstance(found, TrainingCycle):
                self._current = found
                break
            errors.append(found)
            if self._lake.newest_number(self._loop_name) >= version:
                break  # it was trained before: an older one must not follow
        self._metrics.refused.labels(self._loop_name).set(float(bool(errors)))
        if self._current is None:
            raise errors[0] if errors else unpublished(published, self._loop_name)
        return self._current

    def _cycle(self, loop: Loop) -> "TrainingCycle | TidemillError":
        """Return the cycle of *loop*, or why it cannot be trained."""
        if self._current is not None and loop == self._current.loop:
            return self._current
        try:
            compile_label(loop)
            return TrainingCycle(
                loop, self._lake, self._publisher, trial=self._trial, on_version=self._on_version
            )
        except (ContractError, LoopError) as error:
            if loop.digest not in self._refused:
                self._refused.add(loop.digest)
                logger.error("version %d of %s is not trained: %s", loop.version, loop.loop, error)
            return error


def gauge(metrics: TrainerMetrics, loop: str, cycle: TrainingCycle) -> None:
    """Set the metrics of *loop* to what *cycle* has come to."""
    if cycle.online_run is not None:
        metrics.learned.labels(loop).set(cycle.online_run.learner.learned_until)
    live = cycle.registry.model()
    metrics.live.labels(loop).set(live.number if live else 0)
    metrics.heartbeat.labels(loop).set_to_current_time()
    metrics.backlog.labels(loop).set(cycle.backlog)
    models = cycle.registry.models()
    if models:
        last = models[-1]
        metrics.promoted.labels(loop).set(last.promoted and last.learner != DEFAULT)
