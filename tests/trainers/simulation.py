"""A loop in memory: a world of clicks, a policy with exploration, a learner, the gate, the watch.

It plays decisions and labels through the learner, the gate and the watch of the product, without
Kafka and lake, as fast as models can be trained.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import ACTION, FeatureSignature
from tidemill.trainers.evaluation.action_gate import judge_actions
from tidemill.trainers.evaluation.action_sets import action_evaluation, model_evaluation
from tidemill.trainers.evaluation.gate import Verdict
from tidemill.trainers.evaluation.live_watch import LiveWatch
from tidemill.trainers.evaluation.model_policies import ScoredPolicy, action_scores, chances
from tidemill.trainers.evaluation.rewards import Rewards
from tidemill.trainers.learners.batch import LightGBM, train
from tidemill.trainers.rows import Integers, LabeledRows, LoggedActions, split

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class World:
    """The chance of a click for each segment and each action, shape (segments, actions)."""

    clicks: Floats
    default: int = 0

    @classmethod
    def headlines(cls) -> "World":
        """Five headlines, six segments: one is the best of each segment, the second of two."""
        clicks = np.full((6, 5), 0.14)
        clicks[np.arange(6), [0, 1, 2, 3, 4, 1]] = 0.30
        return cls(clicks)

    @classmethod
    def null(cls, segments: int = 6, actions: int = 5) -> "World":
        """No action is better than another: segments differ, headlines do not."""
        rates = np.linspace(0.05, 0.3, segments)
        return cls(np.repeat(rates[:, None], actions, axis=1))

    def value(self, choice: Integers, epsilon: float = 0.0) -> float:
        """Return the clicks of a decision by a policy that takes *choice* in each segment."""
        segments = np.arange(self.clicks.shape[0])
        taken = self.clicks[segments, choice].mean()
        return float((1.0 - epsilon) * taken + epsilon * self.clicks.mean())

    @property
    def best(self) -> Integers:
        """The best action of each segment."""
        return np.asarray(self.clicks.argmax(axis=1))


def headline_loop(world: World, **policy: object) -> Loop:
    """Return the loop that decides in *world*."""
    actions = [f"headline-{number}" for number in range(world.clicks.shape[1])]
    return Loop.model_validate(
        {
            "loop": "headlines",
            "decision": {"type": "choice", "actions": actions, "default": actions[world.default]},
            "features": {"segment": "category"},
            "feedback": {"clicked": {"within": "10s"}},
            "label": {"sql": "count(*) > 0"},
            "grace": "1s",
            "policy": {"kind": "greedy", "epsilon": 0.2} | policy,
            "models": {"batch": {"rounds": 30, "params": {"min_data_in_leaf": 20}}},
        }
    )


@dataclass(slots=True)
class Live:
    """The model that decides, with its choice for each segment."""

    version: str
    model: LightGBM
    choice: Integers
    watch: LiveWatch


@dataclass(kw_only=True)
class Simulation:
    """One world with its loop, from the first decision on.

    Attributes:
        verdicts: those of the gate.
        taken_back: the versions that the watch took back.
        choices: what decided, without exploration, at each step.
    """

    world: World
    loop: Loop
    seed: int
    verdicts: list[Verdict] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)
    choices: list[Integers] = field(default_factory=list)
    live: Live | None = None
    rows: LabeledRows | None = None
    _looks: int = 0
    _since: int = 0  # rows before this one judge no candidate

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.segments = [f"segment-{number}" for number in range(self.world.clicks.shape[0])]

    @property
    def choice(self) -> Integers:
        """What the loop does in each segment now, without exploration."""
        default = np.full(len(self.segments), self.world.default)
        return default if self.live is None else self.live.choice

    def run(self, steps: int, step: int = 1_000) -> Iterator[int]:
        """Decide *step* times, learn and judge, *steps* times; yield how often it has decided."""
        for number in range(1, steps + 1):
            self.choices.append(self.choice)
            fresh = self.decide(step)
            self.rows = fresh if self.rows is None else joined(self.rows, fresh)
            self._watch(fresh)
            self._candidate(self.rows)
            yield number * step

    def decide(self, count: int) -> LabeledRows:
        """Return *count* decisions of the present policy, with their labels."""
        segment = self.random.integers(0, len(self.segments), count)
        actions, epsilon = self.world.clicks.shape[1], self.loop.policy.epsilon
        wanted = self.choice[segment]
        chance = self.random.random(count) < epsilon
        action = np.where(chance, self.random.integers(0, actions, count), wanted)
        propensity = epsilon / actions + np.where(action == wanted, 1.0 - epsilon, 0.0)
        label = self.random.random(count) < self.world.clicks[segment, action]
        first = 0 if self.rows is None else len(self.rows)
        names = np.array(self.loop.decision.actions)
        return LabeledRows(
            features=pl.DataFrame(
                {"segment": np.array(self.segments)[segment], ACTION: names[action]}
            ),
            label=label.astype(float),
            at=pl.Series(
                [START + (first + number) * SECOND for number in range(count)],
                dtype=pl.Datetime("us", "UTC"),
            ),
            ids=pl.Series([f"d{first + number}" for number in range(count)]),
            snapshot=0,
            logged=LoggedActions(action, np.full(count, self.world.default), propensity, actions),
        )

    def _watch(self, fresh: LabeledRows) -> None:
        if self.live is None:
            return
        self.live.watch.take(fresh)
        if self.live.watch.problem():
            self.taken_back.append(self.live.version)
            self.live, self._looks = None, 0
            self._since = 0 if self.rows is None else len(self.rows)

    def _candidate(self, rows: LabeledRows) -> None:
        """Train on the earlier rows and let the gate judge by the later ones."""
        batch = self.loop.models.batch
        assert batch is not None
        earlier, later = split(rows, batch.holdout, self.loop.wait + self.loop.grace)
        later = later.slice(max(0, len(later) - (len(rows) - self._since)), len(later))
        if not len(earlier) or not len(later):
            return
        trained = train(earlier, self.loop, batch)
        model, version = LightGBM.of(trained), f"lightgbm-{len(self.verdicts) + 1}"
        scores, its = action_scores(model, later.features, self.loop), None
        if self.live is not None:
            live_scores = action_scores(self.live.model, later.features, self.loop)
            its = ScoredPolicy(self.live.version, chances(live_scores, self.loop))
        found = action_evaluation(self.loop, Rewards(self.loop), later, scores, version, its)
        found = replace(found, share=batch.holdout, look=self._looks + 1)
        verdict = judge_actions(self.loop, found)
        self.verdicts.append(verdict)
        self._looks += "look" in verdict.metrics
        if verdict.promoted:
            frame = pl.DataFrame({"segment": self.segments, ACTION: None})
            choice = chances(action_scores(model, frame, self.loop), self.loop).argmax(axis=1)
            watch = watch_of(self.loop, model, trained.signature, version)
            self.live, self._looks = Live(version, model, choice, watch), 0


def watch_of(loop: Loop, model: LightGBM, signature: FeatureSignature, version: str) -> LiveWatch:
    """Return the watch on *model*, which has seen nothing yet."""
    rewards = Rewards(loop)
    return LiveWatch(
        loop,
        version=version,
        evaluate=lambda rows: model_evaluation(loop, rewards, rows, model, signature, version),
        seen_until=0,
    )


def joined(first: LabeledRows, second: LabeledRows) -> LabeledRows:
    """Return the rows of both."""
    one, other = first.logged, second.logged
    assert one is not None
    assert other is not None
    return LabeledRows(
        features=pl.concat([first.features, second.features]),
        label=np.concatenate([first.label, second.label]),
        at=pl.concat([first.at, second.at]),
        ids=pl.concat([first.ids, second.ids]),
        snapshot=0,
        logged=LoggedActions(
            np.concatenate([one.action, other.action]),
            np.concatenate([one.baseline, other.baseline]),
            np.concatenate([one.propensity, other.propensity]),
            one.actions,
        ),
    )
