"""One training cycle: watch what decides, learn new examples, train when due, judge, publish.

The steps run in order in one thread. All state that must survive a crash is in the lake, so a new
`TrainingCycle` on the same lake continues where the last one was killed:

- killed before a version is in the registry: the version is made again;
- killed between the registry and the topic: the next cycle publishes the version first.

`trainer.py` has the process, its signals and its waiting.

Longer than 300 lines because both learners share the order of their steps.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

import polars as pl

from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.sql.backfills import complete_table
from tidemill.features.sql.datasets import training_set
from tidemill.features.sql.judgements import comparable_rows
from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.schemas.loop.durations import told_duration
from tidemill.schemas.models.fit import check_fit
from tidemill.schemas.models.manifest import DEFAULT_PAYLOAD, payload_digest, utc_now
from tidemill.schemas.models.posterior import POSTERIOR
from tidemill.trainers.commit_log import LabelCount, commits_after, count_labels, known_ids
from tidemill.trainers.evaluation.action_gate import judge_actions
from tidemill.trainers.evaluation.action_sets import ActionSets
from tidemill.trainers.evaluation.evaluation_sets import EvaluationSets
from tidemill.trainers.evaluation.gate import Verdict, judge
from tidemill.trainers.evaluation.item_sets import ItemSets
from tidemill.trainers.evaluation.live_watch import LiveWatch
from tidemill.trainers.learners.batch import LIGHTGBM, Stopwatch, Trained, train
from tidemill.trainers.learners.online_run import OnlineRun
from tidemill.trainers.learners.posteriors import train_posterior
from tidemill.trainers.model_trial import Trial, no_trial
from tidemill.trainers.publisher import Publisher
from tidemill.trainers.registry import ONLINE, ModelVersion, Registry, default_version
from tidemill.trainers.rollout.slots import SlotPublisher
from tidemill.trainers.rollout.staging import TAKEN_BACK, Staging
from tidemill.trainers.rows import LabeledRows, split

logger = logging.getLogger(__name__)

LEARN = {LIGHTGBM: train, POSTERIOR: train_posterior}
"""What trains a model on a snapshot, by the learner of the loop file."""

OnVersion = Callable[[ModelVersion], None]


class TrainingCycle:
    """The learners of one loop, their registry and their publisher.

    Args:
        loop: what is learned, from what, and how it is judged.
        lake: where examples are read and models are stored.
        publisher: what puts the models on the topic.
        trial: what a model that would be promoted must survive first.
        clock: the present time, which is only recorded; nothing depends on it.
        on_version: called with each version once it is in the registry.
        count_share: the share of its time that the trainer may spend counting labels; at 1 it
            counts in every cycle.
    """

    def __init__(
        self,
        loop: Loop,
        lake: Lake,
        publisher: Publisher,
        *,
        trial: Trial = no_trial,
        clock: Callable[[], datetime] = utc_now,
        on_version: OnVersion = lambda _model: None,
        count_share: float = 0.05,
    ) -> None:
        lake.create(loop)
        self.loop = loop
        self.registry = Registry(lake, loop.loop)
        self._lake, self._publisher = lake, publisher
        self._clock, self._on_version, self._trial = clock, on_version, trial
        self._examples = lake.table(loop.loop, EXAMPLES)
        self._live_watch: LiveWatch | None = None
        self._published = 0  # the number of the online state that is on the topic
        self._refused_labels = -1
        self._ready_at: datetime | None = None  # the decision time up to which labels must be known
        self._label_count: LabelCount | None = None
        self._has_told_left_out = False
        self._next_count_s, self._count_share = 0.0, count_share
        self.staging = Staging(loop, lake, self.registry, clock=clock, time_share=count_share)
        self._slots = SlotPublisher(self.registry, publisher)
        online = loop.models.online
        self.online_run = OnlineRun(loop, online, lake, self.registry) if online else None
        predictions = self.online_run.predictions if self.online_run else None
        self._evaluation_sets = EvaluationSets(loop, lake, self.registry, predictions)
        self._action_sets = self._sets_of_actions()

    def run(self, *, force: bool = False) -> list[ModelVersion]:
        """Do all that is due and return the versions that were made.

        Args:
            force: make a version of each learner of whatever is new, due or not.

        Raises:
            BrokerError: no broker answers; the registry has the versions, and the next cycle
                publishes them.
            LakeError: the lake does not answer, or (FencedError) another trainer has taken over.
        """
        before = self.registry.next_number()
        self.learn(force=force)
        count = self.due_batch(force=force)
        if count is not None:
            self.train(count)
        return [model for model in self.registry.models() if model.number >= before]

    def learn(self, *, force: bool = False, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Publish, watch the live model and stages, learn; return whether all was learned.

        Args:
            force: offer the state of the online learner, due or not.
            is_over: asked after each commit; True leaves the rest to the next call.

        Raises:
            BrokerError, LakeError: as `run`.
        """
        self.publish()
        self._watch()
        problem = self.staging.advance(force=force)
        if problem is not None:
            self._end_live(problem.problem, problem.metrics)
        self.publish()
        if self.registry.stages.standing.is_frozen:
            return True
        return self._follow(force=force, is_over=is_over)

    def _sets_of_actions(self) -> ActionSets | ItemSets | None:
        """Return what evaluates candidates by what they would have done; None if nothing has to."""
        loop, sets, run = self.loop, self._evaluation_sets, self.online_run
        if loop.decision.items is not None:
            states = run.offered if run else None
            return ItemSets(loop, self._lake, sets, self.registry, states)
        return ActionSets(loop, sets, self.registry) if loop.scores_actions else None

    @property
    def learned_until(self) -> int:
        """The version of the table of examples up to which every learner has looked."""
        if self.online_run is not None:
            return self.online_run.learner.learned_until
        return self._label_count.version if self._label_count is not None else -1

    @property
    def backlog(self) -> int:
        """How many commits of examples no learner has looked at yet."""
        return max(0, self._examples.version() - max(self.learned_until, 0))

    def publish(self) -> None:
        """Let a promoted model enter its stage, and publish what the topic lacks.

        Raises:
            BrokerError: no broker answers.
        """
        self.staging.enter()
        self._slots.publish()
        online = self.loop.models.online
        state = self.registry.newest(online.learner) if online else None
        if state is not None and self._published != state.number:
            payload = self.registry.payload(state)
            self._publisher.publish(self.registry.manifest(state, len(payload), ONLINE), payload)
            self._published = state.number

    def _watch(self) -> None:
        """Take the live model back if it earns less than the default; see `live_watch.py`."""
        live, _ = self._evaluation_sets.live()
        if self._action_sets is None or live is None:
            self._live_watch = None
            return
        if self._live_watch is None or self._live_watch.version != live.version:
            self._live_watch = self._action_sets.watch(live, self._examples.version())
        watch, until, learned = self._live_watch, live.until, live.until
        is_comparable: pl.Expr | None = None
        for version, examples in commits_after(
            self._examples, watch.seen_until, lambda: known_ids(self._examples, learned)
        ):
            if is_comparable is None:
                is_comparable = comparable_rows(self._lake, self.loop).expr()
            own = examples.filter(is_comparable)
            rows = LabeledRows.of_examples(own, self.loop, version).after(learned)
            watch.take(rows)
            watch.seen_until = version
            until = max(filter(None, (until, rows.last_at)), default=None)
            problem = watch.problem()
            if problem is not None:
                self._take_back(watch, problem, until)
                return

    def _take_back(self, watch: LiveWatch, problem: str, until: datetime | None) -> None:
        """Let the last good model decide, or the default, after the watch has found *problem*."""
        gain = watch.gain()
        metrics = {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
        self._end_live(problem, metrics, snapshot=watch.seen_until, until=until)

    def _end_live(
        self,
        problem: str,
        metrics: Mapping[str, float],
        *,
        snapshot: int | None = None,
        until: datetime | None = None,
    ) -> None:
        """Take the live model back: in the lake first, then on the topic.

        With stages the last good model decides again; without them, or if there is none, the
        default does, as a version of its own.
        """
        if self.staging.tell_pinned(problem):
            return
        logger.warning("%s: %s%s", self.loop.loop, TAKEN_BACK, problem)
        is_replaced = self.loop.rollout is not None and self.staging.fall_back(problem, metrics)
        if not is_replaced:
            model = default_version(
                self.loop,
                self.registry,
                at=self._clock(),
                reason=TAKEN_BACK + problem,
                metrics=metrics,
                snapshot=self._examples.version() if snapshot is None else snapshot,
                until=until,
            )
            self.registry.add(model, DEFAULT_PAYLOAD)
            self._on_version(model)
        self._live_watch = None
        self.publish()

    def _follow(self, *, force: bool, is_over: Callable[[], bool]) -> bool:
        """Learn new commits, and offer the learner's state to the gate whenever it is due."""
        run, online = self.online_run, self.loop.models.online
        if run is None or online is None:
            return True
        for _version in run.follow():
            if run.fresh_rows >= online.publish_every:
                self._offer(run)
            if is_over():
                return False
        if force and run.fresh_rows:
            self._offer(run)
        return True

    def _offer(self, run: OnlineRun) -> None:
        run.save()
        window = self._evaluation_sets.window(run.learner.learned_until)
        trained = run.candidate(window.base_rate)
        if trained is None:
            return
        version = self._version(trained.learner)
        if self._action_sets is not None:
            explored = self._action_sets.of_online(window, version, trained.snapshot)
            verdict = judge_actions(self.loop, explored)
        else:
            evaluation = self._evaluation_sets.of_online(
                trained.learner, window, version, trained.snapshot
            )
            verdict = judge(self.loop, evaluation)
        count = replace(
            self._counted(trained.snapshot), labels=trained.rows, last_at=run.learner.until
        )
        times = window.predictions.get_column("at")
        model = self._register(
            trained,
            self._tried(trained, verdict),
            count,
            times[0] if len(times) else None,
        )
        run.registered(model, trained.payload)
        self.publish()

    def due_batch(self, *, force: bool = False) -> LabelCount | None:
        """Return the labels to train on if enough are new since the last version; None if not."""
        batch = self.loop.models.batch
        if batch is None or self.registry.stages.standing.is_frozen:
            return None
        count = self._count_labels(force=force)
        return count if count is not None and self._is_due(batch, count, force=force) else None

    @property
    def is_counted(self) -> bool:
        """Whether the labels of the newest commit are counted, or nothing is trained in batch."""
        count = self._label_count
        if self.loop.models.batch is None or self.registry.stages.standing.is_frozen:
            return True
        return count is not None and count.version == self._examples.version()

    @property
    def has_left_out(self) -> bool:
        """Whether labels are left out, which a backfill may make anew without a commit."""
        return self._label_count is not None and bool(self._label_count.left_out)

    def train(self, count: LabelCount) -> None:
        """Train on the snapshot that *count* has counted, judge the model, and publish it."""
        batch = self.loop.models.batch
        if batch is None:
            raise ValueError(f"{self.loop.loop} trains no model in batch")
        watch = Stopwatch()
        rows = LabeledRows.of(training_set(self._lake, self.loop, version=count.version), self.loop)
        earlier, later = split(rows, batch.holdout, self.loop.wait + self.loop.grace)
        if not len(earlier):
            self._wait_for_older(rows, batch)
            return
        try:
            trained = LEARN[batch.learner](earlier, self.loop, batch)
        except ModelError as error:
            logger.warning("no model was trained: %s", error)
            self._refused_labels = count.labels
            return
        version = self._version(trained.learner)
        if self._action_sets is not None:
            explored = self._action_sets.of_batch(trained, later, version)
            verdict = judge_actions(self.loop, explored)
        else:
            evaluation = self._evaluation_sets.of_batch(trained, later, version)
            verdict = judge(self.loop, evaluation)
        verdict = self._tried(trained, verdict)
        trained = replace(trained, cost=watch.read())
        self._register(trained, verdict, count, later.at[0] if len(later) else None)
        self.publish()

    def _wait_for_older(self, rows: LabeledRows, batch: Batch) -> None:
        """Say why none of *rows* can be learned yet, and wait until that may have changed."""
        maturity = self.loop.wait + self.loop.grace
        first, last = rows.at[0], rows.at[-1]
        self._ready_at = max(first + maturity / (1.0 - batch.holdout), last + maturity / 10)
        logger.warning(
            "no model was trained yet: none of %s labels is old enough. The newest %.0f%% judge "
            "the model, and it learns labels that are %s older than those. There are some when "
            "decisions of about %s have labels; the newest is of %s",
            f"{len(rows):,}",
            100 * batch.holdout,
            told_duration(maturity),
            f"{self._ready_at:%Y-%m-%d %H:%M:%S}",
            f"{last:%Y-%m-%d %H:%M:%S}",
        )

    def _count_labels(self, *, force: bool) -> LabelCount | None:
        """Count the labels if the table has changed; None if the last count is too recent.

        A count of a large lake takes long, so counting has a share of the time. While rows are left
        out, it is repeated without a change of the table: a backfill may have made their labels.
        """
        started = time.monotonic()
        if not force and started < self._next_count_s:
            return None
        last = self._label_count
        if last is None or last.left_out or last.version != self._examples.version():
            self._label_count = self._counted()
            taken = time.monotonic() - started
            self._next_count_s = started + taken / self._count_share
        return self._label_count

    def _counted(self, version: int | None = None) -> LabelCount:
        rows, made = comparable_rows(self._lake, self.loop), None
        if rows.backfill is not None:
            made = complete_table(self._lake, self.loop.loop, rows.backfill)
        return count_labels(self._examples, self.loop, rows, backfill=made, version=version)

    def _tell_left_out(self, batch: Batch, count: LabelCount) -> None:
        """Say once what there are labels of, if there are too few of this version's."""
        if not count.left_out or count.labels >= batch.min_labels or self._has_told_left_out:
            return
        self._has_told_left_out = True
        others = " and ".join(f"{n:,} rows of {name}" for name, n in count.left_out.items())
        logger.warning(
            "no model was trained yet: version %d has %s labels of the %s that models.batch "
            "min_labels asks for. %s have a label that means something else and are not learned. "
            "It waits for the decisions of version %d to close; `tidemill publish LOOP.yaml "
            "--backfill` makes the labels of the others anew",
            self.loop.version,
            f"{count.labels:,}",
            f"{batch.min_labels:,}",
            others,
            self.loop.version,
        )

    def _is_due(self, batch: Batch, count: LabelCount, *, force: bool) -> bool:
        self._tell_left_out(batch, count)
        if count.labels < batch.min_labels or count.labels == self._refused_labels:
            return False
        if not force and self._ready_at and count.last_at and count.last_at < self._ready_at:
            return False
        last = self.registry.newest(batch.learner)
        if last is None or last.loop_version != self.loop.version:
            return True
        fresh = count.labels - last.labels
        if fresh >= (1 if force else batch.retrain.new_labels):
            return True
        every = batch.retrain.every
        if every is None or fresh < 1 or count.last_at is None or last.until is None:
            return False
        return count.last_at - last.until >= every

    def _tried(self, trained: Trained, verdict: Verdict) -> Verdict:
        """Return *verdict*, or a refusal if workers could not serve what it promotes."""
        if not verdict.promoted:
            return verdict
        loop, version = self.loop, self._version(trained.learner)
        live = self.registry.model()
        if live is not None and live.loop_version > loop.version and not self._means_as_much(live):
            why = f"{live.version} of loop version {live.loop_version} has learned another label"
            return replace(verdict, promoted=False, reason=f"not promoted: {why}, and it is newer")
        try:
            check_fit(
                loop,
                version,
                trained.signature,
                learner=trained.learner,
                label_type=loop.label.type,
                label_digest=loop.label_digest,
            )
            self._trial(
                loop,
                version=version,
                learner=trained.learner,
                payload=trained.payload,
                signature=trained.signature,
            )
        except ModelError as error:
            return replace(
                verdict, promoted=False, reason=f"not promoted: workers refuse it: {error.what}"
            )
        return verdict

    def _what_waits(self, verdict: Verdict) -> str:
        """Return what a promoted model has to wait for before it is live; empty for nothing."""
        if not verdict.promoted or self.staging.goes_live_at_once:
            return ""
        is_pinned = self.registry.stages.standing.is_pinned
        return "; the loop is pinned" if is_pinned else f"; first it is {self.staging.stages[0]}"

    def _means_as_much(self, model: ModelVersion) -> bool:
        """Return whether the label of *model* is that of this version, as far as it is known."""
        return model.label_digest in (None, self.loop.label_digest)

    def _version(self, learner: str) -> str:
        return f"{learner}-{self.registry.next_number()}"

    def _register(
        self, trained: Trained, verdict: Verdict, count: LabelCount, later_from: datetime | None
    ) -> ModelVersion:
        """Add the version to the registry, with its verdict."""
        cost, is_live = trained.cost, verdict.promoted and self.staging.goes_live_at_once
        model = ModelVersion(
            number=self.registry.next_number(),
            version=self._version(trained.learner),
            at=self._clock(),
            learner=trained.learner,
            loop_version=self.loop.version,
            policy_version=self.loop.policy.version,
            label_type=self.loop.label.type,
            promoted=verdict.promoted,
            sequence=self.registry.next_sequence() if is_live else 0,
            reason=verdict.reason + self._what_waits(verdict),
            metrics=verdict.metrics,
            snapshot=trained.snapshot,
            labels=count.labels,
            revised=count.revised,
            until=count.last_at,
            later_from=later_from,
            trained_on_rows=trained.rows,
            base_rate=trained.base_rate,
            seed=trained.seed,
            params=trained.params,
            software=trained.software,
            replaces=self.staging.replaced(),
            wall_s=cost.wall_s,
            cpu_s=cost.cpu_s,
            digest=payload_digest(trained.payload),
            features=trained.signature.to_json(),
            label_digest=self.loop.label_digest,
            sources=count.sources,
        )
        self.registry.add(model, trained.payload, trained.state)
        self._on_version(model)
        return model
