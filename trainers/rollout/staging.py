"""What a trainer does with its candidates: it enters them, moves them on, and stops them.

All state is in the tables `models` and `stages`, so a killed trainer goes on where it was:

- killed before the change of a candidate is recorded: the next cycle records it;
- killed between the record and the topic: the next cycle publishes it (`slots.py`).

A person's change comes before the trainer's. A candidate that was judged against another live
model than the present one enters no stage: the next training judges anew.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

import polars as pl

from tidemill.features.estimates.sequences import spent_confidence
from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.rollout import CONTROL, STAGES, Rollout, Stage
from tidemill.schemas.models.fit import misfit
from tidemill.schemas.models.manifest import CANARY, DEFAULT, LIVE, SHADOW
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rollout.evidence import (
    StageRewards,
    canary_sources,
    count_decisions,
    fallback_share,
    newest_decision,
)
from tidemill.trainers.rollout.guardrails import (
    Finding,
    compared,
    fallback_problem,
    guardrails_of,
    looks,
    reward_problem,
)
from tidemill.trainers.rollout.shadows import shadow_metrics
from tidemill.trainers.rollout.slots import adopt
from tidemill.trainers.rollout.stages import TRAINER, ChangedTo, StageChange, Standing

logger = logging.getLogger(__name__)

TAKEN_BACK = "taken back: "
"""How the reason of a change begins by which a trainer ends what a live model decides."""


@dataclass(frozen=True, slots=True)
class LiveProblem:
    """Why the live model has to be taken back, and its metrics beside those of the control."""

    problem: str
    metrics: Mapping[str, float]


class Staging:
    """The candidates of one loop on their way to live.

    Args:
        loop: says the stages.
        lake: has the decisions that a stage asks for.
        registry: has the models and the changes of their stages.
        clock: the present time, which is only recorded.
        time_share: the share of its time that the trainer may spend looking at candidates.
    """

    def __init__(
        self,
        loop: Loop,
        lake: Lake,
        registry: Registry,
        *,
        clock: Callable[[], datetime],
        time_share: float,
    ) -> None:
        self._loop, self._lake, self._registry, self._clock = loop, lake, registry, clock
        self._time_share, self._next_look_s = time_share, 0.0
        self._told = ""

    @property
    def goes_live_at_once(self) -> bool:
        """Whether a model that the gate promotes now is live without another stage."""
        standing = self._registry.stages.standing
        return self.stages[0] == LIVE and not (standing.is_pinned or standing.is_frozen)

    def replaced(self) -> str:
        """Return the version that a new model is judged against; empty if there is none."""
        live = self._registry.live()
        if live is None or live.label_digest not in (None, self._loop.label_digest):
            return ""
        return live.version

    def enter(self) -> None:
        """Let the newest model that the gate promoted enter its first stage, if it may."""
        adopt(self._registry)
        self._registry.stages.change(self._entry)

    def advance(self, *, force: bool = False) -> LiveProblem | None:
        """Move the candidate on, or stop it; return why the live model has to be taken back.

        Raises:
            LakeError: the lake cannot be read.
        """
        started = time.monotonic()
        if not force and started < self._next_look_s:
            return None
        standing = self._registry.stages.read()
        if standing.candidate is not None:
            self._judge(standing.candidate)
        problem = self._beside_control() if self._rollout.control else None
        self._next_look_s = started + (time.monotonic() - started) / self._time_share
        return problem

    def fall_back(self, problem: str, metrics: Mapping[str, float]) -> bool:
        """Let the last good model decide instead of the live one; return whether there is one."""

        def decide(standing: Standing) -> StageChange | None:
            good = self._last_good(standing)
            if good is None or standing.is_pinned:
                return None
            why = TAKEN_BACK + problem
            return self._made(standing, "live", good, why, metrics)

        return self._registry.stages.change(decide) is not None

    def tell_pinned(self, problem: str) -> bool:
        """Return whether a person decides what is live; then *problem* is logged, once."""
        if not self._registry.stages.standing.is_pinned:
            return False
        if problem != self._told:
            self._told = problem
            said = "%s is pinned, so nothing changes: %s; tidemill model release %s"
            logger.warning(said, self._loop.loop, problem, self._loop.loop)
        return True

    @property
    def stages(self) -> list[Stage]:
        """What a candidate goes through, in order."""
        rollout = self._loop.rollout
        return ["live"] if rollout is None else rollout.stages

    def _entry(self, standing: Standing) -> StageChange | None:
        """Return the change by which a model enters; None if none waits, or it has to wait."""
        model = next((one for one in reversed(self._registry.models()) if one.promoted), None)
        if model is None or model.number <= standing.newest_model or standing.is_pinned:
            return None
        if model.replaces != self.replaced():
            return None
        if model.learner == DEFAULT:
            return self._made(standing, "live", model, model.reason, model.metrics)
        candidate = standing.candidate
        if candidate is not None and candidate.stage == CANARY:
            return None  # it waits: a canary that each new model ends would never be complete
        return self._made(standing, self.stages[0], model, model.reason, model.metrics)

    def _made(
        self,
        standing: Standing,
        stage: ChangedTo,
        model: ModelVersion,
        why: str,
        metrics: Mapping[str, float],
    ) -> StageChange:
        change = standing.next(
            stage, at=self._clock(), model=model.number, version=model.version, why=why
        )
        share = self._rollout.canary.share if stage == CANARY else None
        since = newest_decision(self._lake, self._loop)
        return replace(change, share=share, since=since, who=TRAINER, metrics=dict(metrics))

    @property
    def _rollout(self) -> Rollout:
        return self._loop.rollout or Rollout()

    def _judge(self, change: StageChange) -> None:
        """Move the candidate of *change* on, or stop it, or leave it where it is."""
        model = self._registry.numbered(change.model)
        found = self._finding(change, model)
        place = STAGES.index("shadow" if change.stage == SHADOW else "canary")
        later = [each for each in self.stages if STAGES.index(each) > place]
        if found.problem:
            if not self.tell_pinned(found.problem):
                logger.warning("%s: stopped: %s", self._loop.loop, found.problem)
                self._move(change, "stopped", model, f"stopped: {found.problem}", found.metrics)
        elif found.is_complete and later:
            why = f"{found.rows:,} decisions in {change.stage}, and the guardrails hold"
            self._move(change, later[0], model, why, found.metrics)

    def _move(
        self,
        seen: StageChange,
        stage: ChangedTo,
        model: ModelVersion,
        why: str,
        metrics: Mapping[str, float],
    ) -> None:
        """Record the move, unless the candidate is no longer where it was *seen*."""

        def decide(standing: Standing) -> StageChange | None:
            if standing.candidate != seen or standing.is_pinned:
                return None
            return self._made(standing, stage, model, why, metrics)

        self._registry.stages.change(decide)

    def _finding(self, change: StageChange, model: ModelVersion) -> Finding:
        """Return what is known of the candidate of *change*."""
        if why := self._misfit(model):
            return Finding(rows=0, wanted=0, problem=f"{model.version} {why}")
        if change.stage not in self.stages:
            problem = f"the loop file has no stage {change.stage} any more"
            return Finding(rows=0, wanted=0, problem=problem)
        if change.stage == SHADOW:
            return self._of_shadow(change, model)
        return self._of_canary(change)

    def _of_shadow(self, change: StageChange, model: ModelVersion) -> Finding:
        rows = count_decisions(self._lake, self._loop, change.since)
        wanted = self._rollout.shadow.rows
        if rows < wanted:
            return Finding(rows=rows, wanted=wanted)
        confidence = spent_confidence(max(1, looks(rows)), self._loop.gate.confidence)
        metrics = shadow_metrics(
            self._lake, self._loop, self._registry, model, change.since, confidence
        )
        least, problem = guardrails_of(self._loop).reward, ""
        if metrics and metrics["gain_high"] < least:
            problem = (
                f"{change.version} would have earned {metrics['gain']:+.4f} a decision beside the "
                f"live model, on {metrics['rows']:,.0f} decisions; the guardrail is {least:g}"
            )
        return Finding(rows=rows, wanted=wanted, problem=problem, metrics=metrics)

    def _of_canary(self, change: StageChange) -> Finding:
        rewards = StageRewards.read(self._lake, self._loop, (CANARY, LIVE), change.since)
        own = (pl.col("stage") == CANARY) & _made_by(change.version)
        is_own = (pl.col("stage") == CANARY) & (pl.col("version") == change.version)
        rows, wanted = len(rewards.rows.filter(is_own)), self._rollout.canary.rows
        found = compared(self._loop, rewards, own, pl.col("stage") == LIVE, wanted=wanted)
        sources = canary_sources(self._lake, self._loop, change.since)
        problem = fallback_problem(
            self._loop, sources, change.version, is_complete=rows >= wanted
        ) or reward_problem(self._loop, found, change.version, "the live model")
        metrics = found.to_metrics("live") | {"fallbacks": fallback_share(sources)}
        return Finding(rows=rows, wanted=wanted, problem=problem, metrics=metrics)

    def _beside_control(self) -> LiveProblem | None:
        """Return why the live model has to be taken back: it earns less than the control."""
        live, change = self._registry.model(), self._registry.stages.standing.live
        if live is None or change is None:
            return None
        rewards = StageRewards.read(self._lake, self._loop, (LIVE, CONTROL), change.since)
        own = (pl.col("stage") == LIVE) & _made_by(live.version)
        found = compared(self._loop, rewards, own, pl.col("stage") == CONTROL)
        problem = reward_problem(self._loop, found, live.version, "the control")
        return LiveProblem(problem, found.to_metrics("control")) if problem else None

    def _last_good(self, standing: Standing) -> ModelVersion | None:
        """Return the model that was live last before the present one, and was not taken back."""
        lives = standing.lives
        bad = {lives[-1].version} if lives else set()
        for before, after in pairwise(lives):
            if after.who == TRAINER and after.why.startswith(TAKEN_BACK):
                bad.add(before.version)
        for change in reversed(lives):
            if change.version in bad or change.version == DEFAULT:
                continue
            model = self._registry.numbered(change.model)
            if model.learner != DEFAULT and not self._misfit(model):
                return model
        return None

    def _misfit(self, model: ModelVersion) -> str:
        return misfit(
            self._loop,
            model.signature,
            learner=model.learner,
            label_type=model.label_type,
            label_digest=model.label_digest,
        )


def _made_by(version: str) -> pl.Expr:
    """Return whether a decision was made by *version*, or by the default because that failed."""
    return pl.col("version").is_null() | (pl.col("version") == version)
