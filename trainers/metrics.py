"""The Prometheus metrics of a trainer, in a registry of their own."""

import logging
import os
from collections.abc import Callable, Collection, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from tidemill.kafka import BadRecords
from tidemill.trainers.registry import ModelVersion

logger = logging.getLogger(__name__)

WORK = {"tidemill_models_total": "models made"}
"""The samples that the log tells once a minute, with the words for them (`WorkLog`)."""


class TrainerMetrics:
    """The Prometheus metrics of a trainer, in a registry of their own."""

    def __init__(self, bad: BadRecords | None = None) -> None:
        """Count nothing yet; *bad* has the bad records of the shared topics."""
        self.registry = CollectorRegistry()
        self.registry.register(bad or BadRecords())
        Gauge("tidemill_process_id", "Process id of the trainer", registry=self.registry).set(
            os.getpid()
        )
        self.refused = Gauge(
            "tidemill_loop_refused",
            "1 if the newest version of a loop cannot be trained; the log says why",
            ["loop"],
            registry=self.registry,
        )
        self.models = Counter(
            "tidemill_models",
            "Versions that were made; learner default: a model was taken back",
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
            "Number of the live model; 0 while the default decides",
            ["loop"],
            registry=self.registry,
        )
        self.heartbeat = Gauge(
            "tidemill_trainer_heartbeat_timestamp_seconds",
            "When the last training cycle ended; it stands still if the trainer hangs",
            ["loop"],
            registry=self.registry,
        )
        self.backlog = Gauge(
            "tidemill_training_backlog_commits",
            "Commits of examples that no learner has looked at yet",
            ["loop"],
            registry=self.registry,
        )
        self.promoted = Gauge(
            "tidemill_last_model_promoted",
            "1 if the gate promoted the last model, 0 if not; absent before the first",
            ["loop"],
            registry=self.registry,
        )

        self.owned = Gauge(
            "tidemill_trainer_loops",
            "Loops that this process trains: those it owns, without the fenced ones",
            registry=self.registry,
        )
        self.fenced = Gauge(
            "tidemill_trainer_loop_fenced",
            "1 while a loop is left to another trainer, which has fenced this one",
            ["loop"],
            registry=self.registry,
        )
        self.failures = Counter(
            "tidemill_training_failures",
            "Training cycles of a loop that ended by an error and are tried again",
            ["loop"],
            registry=self.registry,
        )
        self.waiting = Gauge(
            "tidemill_training_waiting_seconds",
            "For how long the loop that waits longest has waited; kind batch or online",
            ["kind"],
            registry=self.registry,
        )

    def reporting(
        self, loop: str, on_version: Callable[[ModelVersion], object]
    ) -> Callable[[ModelVersion], None]:
        """Return what counts and logs a new version of *loop*, then passes it to *on_version*."""

        def report(model: ModelVersion) -> None:
            self.count(loop, model)
            logger.info("%s: %s", model.version, model.reason)
            on_version(model)

        return report

    def show(
        self, loops: Collection[str], fenced: Collection[str], waited_s: Mapping[str, float]
    ) -> None:
        """Show that the process is alive and trains *loops*, and for how long others wait."""
        for loop in loops:
            self.heartbeat.labels(loop).set_to_current_time()
            self.fenced.labels(loop).set(0)
        self.owned.set(len(loops))
        for loop in fenced:
            self.fenced.labels(loop).set(1)
        for kind, seconds in waited_s.items():
            self.waiting.labels(kind).set(seconds)

    def forget(self, loop: str) -> None:
        """Show no more of *loop*: it is trained elsewhere, or not at all."""
        gauges = (self.refused, self.learned, self.live, self.heartbeat)
        for gauge in (*gauges, self.backlog, self.promoted, self.fenced):
            gauge.remove_by_labels({"loop": loop})

    def count(self, loop: str, model: ModelVersion) -> None:
        """Count a new version."""
        promoted = "yes" if model.promoted else "no"
        self.models.labels(loop, model.learner, promoted).inc()
        self.cpu.labels(loop, model.learner).inc(model.cpu_s)
