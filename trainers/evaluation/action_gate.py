"""The gate where labels depend on the action: it compares what policies would have earned.

The log has the outcome of one action of each decision, and the chance with which it was taken. From
explored decisions that are later than those the candidate learned, `off_policy` estimates the
reward of the candidate, of the live model and of the default, each without its epsilon. The
candidate is promoted only if both SNIPS and DR find it above the default and above the live model.
Each candidate that is judged is a look at much the same rows, so it gets a part of the error that
the loop's confidence allows all of them together (`sequences.spent_confidence`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from tidemill.features.estimates.intervals import Floats, Interval
from tidemill.features.estimates.off_policy import (
    Estimate,
    doubly_robust,
    effective_rows,
    is_supported,
    snips,
    sums,
)
from tidemill.features.estimates.sequences import spent_confidence
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.evaluation.gate import Verdict, refused
from tidemill.trainers.registry import LOOK
from tidemill.trainers.rows import Integers

REWARD = "reward"  # the metric that says what a policy earns, by SNIPS; with _dr by DR
MIN_EFFECTIVE = 100
"""Of how many equally weighted decisions an estimate has to be; fewer have no usable interval."""


@dataclass(frozen=True, slots=True)
class JudgedPolicy:
    """A policy in the rows of an evaluation.

    Attributes:
        version: its name.
        weight: its chance to do what was logged, divided by the chance of the log, shape (n,).
        expected: the reward that the judging model predicts of what it would do, shape (n,).
    """

    version: str
    weight: Floats
    expected: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionEvaluation:
    """The explored rows to judge by, in order of time.

    A row is a decision. In a ranking of items it is one position of a decision, and what a decision
    earns is the sum of its rows.

    Attributes:
        reward: what each logged action earned, shape (n,).
        predicted: the reward that the candidate's model predicts of the logged action, shape (n,).
        candidate: what the candidate would do.
        default: what the default would do.
        first_rows: the number of the first row of each decision; None if each row is one.
        live: what the live model would do; None if there is none to compare with.
        live_note: why there is none.
        continues: the live version, if the candidate is a later state of it.
        first_at: the time of the first row; None if there is no row.
        last_at: the time of the last one.
        share: the share of all labels that judges a candidate.
        look: how many candidates were judged since the last promotion, this one included.
    """

    reward: Floats
    predicted: Floats
    candidate: JudgedPolicy
    default: JudgedPolicy
    first_rows: Integers | None = None
    live: JudgedPolicy | None = None
    live_note: str = ""
    continues: str = ""
    first_at: datetime | None = None
    last_at: datetime | None = None
    share: float = 1.0
    look: int = 1

    @property
    def decisions(self) -> int:
        """How many decisions the rows are of."""
        return self.reward.size if self.first_rows is None else self.first_rows.size

    def weights(self, policy: JudgedPolicy) -> Floats:
        """Return the weight of each decision; of several rows it is their mean."""
        first = self.first_rows
        if first is None:
            return policy.weight
        return sums(policy.weight, first) / sums(np.ones(self.reward.size), first)

    def robust(self, policy: JudgedPolicy) -> Estimate:
        """Return the doubly robust estimate of what *policy* earns in a decision."""
        found = doubly_robust(self.reward, policy.weight, self.predicted, policy.expected)
        return found if self.first_rows is None else found.summed(self.first_rows)

    def snips(self, policy: JudgedPolicy) -> Estimate:
        """Return the self-normalised estimate of what *policy* earns in a decision."""
        found = snips(self.reward, policy.weight)
        return found if self.first_rows is None else found.summed(self.first_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """What one policy would have earned, by two estimators."""

    name: str
    snips: Estimate
    robust: Estimate


def judge_actions(loop: Loop, evaluation: ActionEvaluation) -> Verdict:
    """Return whether the gate of *loop* promotes the candidate of *evaluation*."""
    rows = evaluation.decisions
    if not rows:
        return refused(_unexplored(loop), rows=0)
    odd = _not_numbers(evaluation)
    if odd:
        return refused(odd, rows=rows)
    support = effective_rows(evaluation.weights(evaluation.candidate))
    metrics = {"explored_rows": float(rows), "effective_rows": support}
    problem = _no_evidence(loop, evaluation, support)
    if problem:
        return refused(problem, rows=rows, metrics=metrics)
    own, *rivals = [_value(evaluation, *each) for each in _policies(evaluation)]
    confidence = spent_confidence(evaluation.look, loop.gate.confidence)
    metrics |= _metrics(own, rivals, evaluation.look)
    told = [_told(own, evaluation, support)]
    for rival in rivals:
        gap, is_above = _gap(own, rival, confidence)
        if not is_above:
            why = f"{told[0]} {_not_above(rival, gap, confidence)}{_looks(loop, evaluation)}"
            return refused(why, rows=rows, metrics=metrics)
        told.append(
            f"{rival.name} {rival.snips.value:.4f}, which is {gap.low:.4f} to {gap.high:.4f} less "
            f"with {confidence:.2%} confidence"
        )
    told += [f"it continues the live {evaluation.continues}"] if evaluation.continues else []
    told += [evaluation.live_note] if evaluation.live_note else []
    reason = f"promoted: {'; '.join(told)}{_looks(loop, evaluation)}"
    return Verdict(promoted=True, reason=reason, rows=rows, metrics=metrics)


def _not_numbers(evaluation: ActionEvaluation) -> str | None:
    """Return which numbers are none, or None."""
    odd = int((~np.isfinite(evaluation.reward)).sum())
    if odd:
        return f"{odd:,} rewards are not numbers"
    predictions = (evaluation.predicted, evaluation.candidate.expected)
    is_sound = all(np.isfinite(each).all() for each in predictions)
    return None if is_sound else "some predictions are not numbers"


def _no_evidence(loop: Loop, evaluation: ActionEvaluation, support: float) -> str | None:
    """Return why the log does not say what the policies would have earned, or None."""
    if evaluation.decisions < loop.gate.min_rows or support < MIN_EFFECTIVE:
        return _missing(loop, evaluation, support)
    for name, policy in _policies(evaluation):
        weight = evaluation.weights(policy)
        if not is_supported(weight):
            return (
                f"the propensities of the log do not support {name}: weights are "
                f"{weight.mean():.2f} on average, not 1, so some of its actions are never explored"
            )
    return None


def _policies(evaluation: ActionEvaluation) -> Iterator[tuple[str, JudgedPolicy]]:
    yield "the candidate", evaluation.candidate
    yield "the default", evaluation.default
    if evaluation.live is not None:
        yield f"the live {evaluation.live.version}", evaluation.live


def _value(evaluation: ActionEvaluation, name: str, policy: JudgedPolicy) -> PolicyValue:
    """Return the value of *policy*, by the candidate's model of rewards."""
    return PolicyValue(name=name, snips=evaluation.snips(policy), robust=evaluation.robust(policy))


def _gap(own: PolicyValue, rival: PolicyValue, confidence: float) -> tuple[Interval, bool]:
    """Return the more cautious of the two differences, and whether both are above zero."""
    gaps = [
        own.snips.above(rival.snips, confidence),
        own.robust.above(rival.robust, confidence),
    ]
    least = min(gaps, key=lambda gap: gap.low)
    return least, least.low > 0.0


def _told(own: PolicyValue, evaluation: ActionEvaluation, support: float) -> str:
    return (
        f"reward {own.snips.value:.4f} a decision by SNIPS, {own.robust.value:.4f} by DR, on "
        f"{evaluation.decisions:,} later explored decisions that count as {support:,.0f}"
    )


def _not_above(rival: PolicyValue, gap: Interval, confidence: float) -> str:
    if gap.mean <= 0.0:
        return f"is not above {rival.name}'s {rival.snips.value:.4f}"
    return (
        f"is above {rival.name}'s {rival.snips.value:.4f}, but that may be chance: the difference "
        f"is between {gap.low:.4f} and {gap.high:.4f} with {confidence:.2%} confidence"
    )


def _looks(loop: Loop, evaluation: ActionEvaluation) -> str:
    if evaluation.look == 1:
        return ""
    return (
        f"; candidate {evaluation.look} since the last promotion, all together judged with "
        f"{loop.gate.confidence:.0%}"
    )


def _metrics(own: PolicyValue, rivals: list[PolicyValue], look: int) -> dict[str, float]:
    """Return the metrics for registry and manifest."""
    names = ("", "default_", "live_")
    found = {LOOK: float(look)}
    for prefix, value in zip(names, (own, *rivals), strict=False):
        found[f"{prefix}{REWARD}"] = value.snips.value
        found[f"{prefix}{REWARD}_dr"] = value.robust.value
    return found


def _unexplored(loop: Loop) -> str:
    items = loop.decision.items
    if items is not None and items.log == "shown":
        return (
            "the log has only the items that were shown, so nothing says what another policy would "
            "have done; write decision: {items: {log: all}}"
        )
    told = "no later decision was explored, so nothing says what another action would have brought"
    if loop.policy.epsilon == 0.0:
        told += f"; write policy: {{kind: {loop.policy.kind}, epsilon: 0.1}}"
    if loop.policy.kind == "threshold":
        told += ", or label: {depends_on: world} if the label is the same whatever is decided"
    return told


def _missing(loop: Loop, evaluation: ActionEvaluation, support: float) -> str:
    """Return how many explored decisions are missing, and when they will be there."""
    rows = evaluation.decisions
    why = (
        f"{rows:,} later explored decisions count as {support:,.0f} for what the candidate would "
        f"do, the gate wants {loop.gate.min_rows:,} that count as {MIN_EFFECTIVE:,}"
    )
    if not support:
        return f"{why}; none of them did what it would do"
    wanted = max(float(loop.gate.min_rows), rows * MIN_EFFECTIVE / support)
    missing = math.ceil((wanted - rows) / evaluation.share)
    told = f"{why}; about {missing:,} more explored decisions are missing"
    first, last = evaluation.first_at, evaluation.last_at
    if first is None or last is None or last <= first:
        return told
    ready = last + (last - first) / rows * (wanted - rows) / evaluation.share
    return f"{told}, which are there at about {ready:%Y-%m-%d %H:%M} by the rate of the log"
