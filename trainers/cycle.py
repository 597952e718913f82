"""One turn of training: follow the examples, train when due, judge, keep, publish.

Everything happens in order and in one thread; all that must outlast it is in the lake, so a new
`TrainingCycle` on the same lake goes on where the last one was killed:

- killed before a version is kept: it is made again;
- killed after it is kept and before it is published: the next turn publishes it first.

It knows no process, no signal and no waiting; those are in `trainer.py`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.schemas.models.manifest import LIVE, payload_digest, utc_now
from tidemill.trainers.commit_log import LabelCount, count_labels
from tidemill.trainers.evaluation.evaluation_sets import EvaluationSets
from tidemill.trainers.evaluation.gate import Verdict, judge
from tidemill.trainers.learners.batch import LIGHTGBM, Stopwatch, Trained, train
from tidemill.trainers.learners.online_run import OnlineRun
from tidemill.trainers.publisher import Publisher
from tidemill.trainers.registry import ONLINE, ModelVersion, Registry
from tidemill.trainers.rows import LabeledRows, split

log = logging.getLogger(__name__)

OnVersion = Callable[[ModelVersion], None]


class TrainingCycle:
    """The learners of one loop.

    Args:
        loop: what is learned, from what, and how it is judged.
        lake: where examples are read and models are kept.
        publisher: where the models go.
        clock: the present time, for the record only; no decision depends on it.
        told: called with each version once it is kept.
    """

    def __init__(
        self,
        loop: Loop,
        lake: Lake,
        publisher: Publisher,
        *,
        clock: Callable[[], datetime] = utc_now,
        told: OnVersion = lambda _model: None,
    ) -> None:
        lake.create(loop)
        self.loop = loop
        self.registry = Registry(lake, loop.loop)
        self._lake, self._publisher, self._clock, self._told = lake, publisher, clock, told
        self._examples = lake.table(loop.loop, EXAMPLES)
        self._published: dict[str, int] = {}
        self._refused_labels = -1
        self._seen: LabelCount | None = None
        self._look_again = 0.0
        online = loop.models.online
        self.course = OnlineRun(loop, online, lake, self.registry) if online else None
        predictions = self.course.predictions if self.course else None
        self._trials = EvaluationSets(loop, lake, self.registry, predictions)

    def turn(self, *, force: bool = False) -> list[ModelVersion]:
        """Do all that is due and return the versions that were made.

        Args:
            force: make a version of each learner of whatever is new, due or not.

        Raises:
            BrokerError: the topic is away; what was made is kept, the next turn publishes it.
            LakeError: the lake is away, or (FencedError) another trainer has taken over.
        """
        self.publish()
        before = self.registry.next_number()
        self._follow(force=force)
        self._batch(force=force)
        return [model for model in self.registry.models() if model.number >= before]

    def publish(self) -> None:
        """Bring the topic to say what the registry says; nothing happens if it does.

        Raises:
            BrokerError: the topic is away.
        """
        online = self.loop.models.online
        due = {LIVE: self.registry.live()}
        due[ONLINE] = self.registry.newest(online.learner) if online else None
        for slot, model in due.items():
            if model is not None and self._published.get(slot) != model.number:
                payload = self.registry.payload(model)
                announcement = self.registry.announcement(model, len(payload), slot)
                self._publisher.publish(announcement, payload)
                self._published[slot] = model.number

    def _follow(self, *, force: bool) -> None:
        """Learn every commit that is new, and offer the learner's state whenever it is due."""
        course, online = self.course, self.loop.models.online
        if course is None or online is None:
            return
        for _version in course.follow():
            if course.fresh_rows >= online.publish_every:
                self._offer(course)
        if force and course.fresh_rows:
            self._offer(course)

    def _offer(self, course: OnlineRun) -> None:
        course.save()
        window = self._trials.window(course.learner.learned_until)
        trained = course.candidate(window.base_rate)
        if trained is None:
            return
        version = self._version(trained.learner)
        trial = self._trials.of_online(trained.learner, window, version, trained.snapshot)
        seen = LabelCount(trained.snapshot, trained.rows, course.learner.until)
        times = window.predictions.get_column("at")
        model = self._keep(trained, judge(self.loop, trial), seen, times[0] if len(times) else None)
        course.kept(model, trained.payload)
        self.publish()

    def _batch(self, *, force: bool) -> None:
        """Train on a snapshot if enough is new since the last time."""
        batch = self.loop.models.batch
        if batch is None:
            return
        seen = self._look(force=force)
        if seen is None or not self._is_due(batch, seen, force=force):
            return
        watch = Stopwatch()
        rows = LabeledRows.of(training_set(self._lake, self.loop, version=seen.version), self.loop)
        earlier, later = split(rows, batch.holdout, self.loop.wait + self.loop.grace)
        try:
            trained = train(earlier, self.loop, batch)
        except ModelError as error:
            log.warning("no model was trained", extra={"reason": error.what})
            self._refused_labels = seen.labels
            return
        trial = self._trials.of_batch(trained, later, self._version(LIGHTGBM))
        verdict = judge(self.loop, trial)
        trained = replace(trained, cost=watch.read())
        self._keep(trained, verdict, seen, later.at[0] if len(later) else None)
        self.publish()

    def _look(self, *, force: bool) -> LabelCount | None:
        """Count the labels if the table has changed; on a large lake not at every turn.

        Counting takes at most a twentieth of the time.
        """
        started = time.monotonic()
        if not force and started < self._look_again:
            return None
        if self._seen is None or self._seen.version != self._examples.version():
            self._seen = count_labels(self._examples, self.loop)
            taken = time.monotonic() - started
            self._look_again = started + 20 * taken
        return self._seen

    @property
    def has_looked(self) -> bool:
        """Whether the labels of the newest version have been counted."""
        return self._seen is not None and self._seen.version == self._examples.version()

    def _is_due(self, batch: Batch, seen: LabelCount, *, force: bool) -> bool:
        if seen.labels < batch.min_labels or seen.labels == self._refused_labels:
            return False
        last = self.registry.newest(LIGHTGBM)
        if last is None or last.loop_version != self.loop.version:
            return True
        fresh = seen.labels - last.labels
        if fresh >= (1 if force else batch.retrain.new_labels):
            return True
        every = batch.retrain.every
        if every is None or fresh < 1 or seen.last_at is None or last.until is None:
            return False
        return seen.last_at - last.until >= every

    def _version(self, learner: str) -> str:
        return f"{learner}-{self.registry.next_number()}"

    def _keep(
        self, trained: Trained, verdict: Verdict, seen: LabelCount, later_from: datetime | None
    ) -> ModelVersion:
        """Keep the version with its verdict."""
        live, cost = self.registry.live(), trained.cost
        model = ModelVersion(
            number=self.registry.next_number(),
            version=self._version(trained.learner),
            at=self._clock(),
            learner=trained.learner,
            loop_version=self.loop.version,
            policy_version=self.loop.policy.version,
            label_type=self.loop.label.type,
            promoted=verdict.promoted,
            sequence=self.registry.next_sequence() if verdict.promoted else 0,
            reason=verdict.reason,
            metrics=verdict.metrics,
            snapshot=trained.snapshot,
            labels=seen.labels,
            revised=seen.revised,
            until=seen.last_at,
            later_from=later_from,
            trained_on_rows=trained.rows,
            base_rate=trained.base_rate,
            seed=trained.seed,
            params=trained.params,
            software=trained.software,
            replaces=live.version if live else "",
            wall_s=cost.wall_s,
            cpu_s=cost.cpu_s,
            digest=payload_digest(trained.payload),
            features=trained.signature.to_json(),
        )
        self.registry.add(model, trained.payload)
        self._told(model)
        return model
