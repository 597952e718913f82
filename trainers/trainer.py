"""The trainer process: one training cycle of a loop after another, until SIGTERM.

Delivery: every commit of ``examples`` is learned once, and every version is registered and
published once, whenever the process is killed (`cycle.py`). While no broker answers, new versions
wait in the lake. Any other error ends the process with what and hint, and its supervisor starts it
again. Between two versions the trainer merges small files of the lake (`maintenance.py`).
"""

import logging
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from tidemill.errors import BrokerError, ConfigError
from tidemill.features.lake.compaction import MANY_FILES
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig, Outages
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.signing import SigningKey
from tidemill.schemas.published import latest_loop
from tidemill.stopping import stop_in_time
from tidemill.trainers.cycle import OnVersion, TrainingCycle
from tidemill.trainers.maintenance import Maintenance
from tidemill.trainers.notifier import Notifier
from tidemill.trainers.publisher import KafkaModelTopic, Publisher
from tidemill.trainers.registry import ModelVersion

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
    metrics_port: int | None = None
    tidy_every_s: float = 300.0  # between two searches for small files
    tidy_files: int = MANY_FILES  # a table with at most so many small files is not compacted

    def __post_init__(self) -> None:
        if self.poll_s <= 0:
            raise ConfigError(f"poll_s is {self.poll_s}", hint="set it above zero, say 1.0")

    @classmethod
    def from_env(cls, env: Mapping[str, str], loop: str, *, once: bool = False) -> Self:
        """Read KAFKA_*, TIDEMILL_LAKE, TIDEMILL_SIGNING_KEY and, if set, TIDEMILL_METRICS_PORT.

        Raises:
            ConfigError: a setting is missing or wrong.
        """
        port = env.get("TIDEMILL_METRICS_PORT", "")
        if port and not port.isdigit():
            raise ConfigError(
                f"TIDEMILL_METRICS_PORT is {port!r}", hint="set it to a port number, or unset it"
            )
        return cls(
            loop=loop,
            kafka=KafkaConfig.from_env(env),
            lake=LakeConfig.from_env(env),
            key=SigningKey.from_env(env),
            once=once,
            metrics_port=int(port) if port else None,
        )


class TrainerMetrics:
    """The Prometheus metrics of a trainer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Gauge("tidemill_process_id", "Process id of the trainer", registry=self.registry).set(
            os.getpid()
        )
        self.models = Counter(
            "tidemill_models",
            "Versions that were made",
            ["loop", "learner", "promoted"],
            registry=self.registry,
        )
        self.cpu = Counter(
            "tidemill_training_cpu_seconds",
            "CPU seconds spent on versions",
            ["loop", "learner"],
            registry=self.registry,
        )
        self.learned = Gauge(
            "tidemill_online_learned_version",
            "Version of the examples table the online learner has learned up to",
            ["loop"],
            registry=self.registry,
        )
        self.live = Gauge(
            "tidemill_live_model_number",
            "Number of the live model",
            ["loop"],
            registry=self.registry,
        )

    def serve(self, port: int) -> None:
        """Answer GET /metrics on *port*, in a thread.

        Raises:
            ConfigError: the port is taken or not allowed.
        """
        try:
            start_http_server(port, registry=self.registry)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be shown on port {port}: {error.strerror}",
                hint="name a free one with --metrics-port or TIDEMILL_METRICS_PORT",
            ) from error

    def count(self, loop: str, model: ModelVersion) -> None:
        """Count a new version."""
        promoted = "yes" if model.promoted else "no"
        self.models.labels(loop, model.learner, promoted).inc()
        self.cpu.labels(loop, model.learner).inc(model.cpu_s)


def run_trainer(config: TrainerConfig, on_version: OnVersion = lambda _model: None) -> int:
    """Train the models of one loop until SIGTERM or SIGINT, or once; return the exit status.

    Args:
        config: what to train and where.
        on_version: called with every version once it is in the registry.

    Raises:
        TidemillError: a setting, the loop, the lake or (when training once) the broker fails.
    """
    stop = threading.Event()
    metrics = TrainerMetrics()
    if config.metrics_port is not None:
        metrics.serve(config.metrics_port)

    def report(model: ModelVersion) -> None:
        metrics.count(config.loop, model)
        logger.info("%s: %s", model.version, model.reason)
        on_version(model)

    if config.once:
        _cycle(config, latest_loop(config.kafka, config.loop), report).run(force=True)
        return os.EX_OK
    outages = Outages(config.kafka, "the trainer")
    loop = outages.waited(lambda: latest_loop(config.kafka, config.loop))
    cycle = _cycle(config, loop, report)
    with _Signals(stop):
        _train_until(stop, config, cycle, metrics, report)
    return os.EX_OK


def _train_until(
    stop: threading.Event,
    config: TrainerConfig,
    cycle: TrainingCycle,
    metrics: TrainerMetrics,
    report: OnVersion,
) -> None:
    notifier = Notifier(config.kafka, config.loop, stop)
    maintenance = Maintenance(
        Lake(config.lake), config.loop, every_s=config.tidy_every_s, files=config.tidy_files
    )
    cycles = 0
    try:
        while not stop.is_set():
            cycles += 1
            try:
                if cycles % _RELOAD_CYCLES == 0:
                    cycle = _renewed(config, cycle, report)
                if not cycle.run():
                    maintenance.run_if_due()
            except BrokerError as error:
                logger.warning(
                    "no broker answers; new models wait in the lake: %s; hint: %s",
                    error.what,
                    error.hint,
                )
            _gauge(metrics, config.loop, cycle)
            notifier.wait(config.poll_s)
    finally:
        notifier.close()


def _cycle(config: TrainerConfig, loop: Loop, report: OnVersion) -> TrainingCycle:
    publisher = Publisher(KafkaModelTopic(config.kafka), loop.loop, config.key)
    return TrainingCycle(loop, Lake(config.lake), publisher, on_version=report)


def _renewed(config: TrainerConfig, cycle: TrainingCycle, report: OnVersion) -> TrainingCycle:
    """Return a cycle of the loop's newest version: the same one if nothing was published."""
    loop = latest_loop(config.kafka, config.loop)
    return cycle if loop == cycle.loop else _cycle(config, loop, report)


def _gauge(metrics: TrainerMetrics, loop: str, cycle: TrainingCycle) -> None:
    if cycle.online_run is not None:
        metrics.learned.labels(loop).set(cycle.online_run.learner.learned_until)
    live = cycle.registry.live()
    metrics.live.labels(loop).set(live.number if live else 0)


class _Signals:
    """Sets an event on SIGTERM and SIGINT; a training cycle under way may end in time, or not."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        stop_in_time()
        self._stop.set()

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned
