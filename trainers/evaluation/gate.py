"""The gate: decides whether a candidate is promoted to live, with a sentence that says why.

A candidate must have a lower loss than the base rate and than the live model, by more than chance
explains, and its actions must not cost more than the loop's default action alone. All are compared
on the same rows, which are later than those the candidate learned.

The cost of deciding, where the shape of the decision allows it:

- threshold: at threshold 0.5 a wrong action costs 1. A threshold of t implies that a needless
  ``above`` costs t to a missing one's 1 - t, so they cost 2t and 2(1 - t).
- value: the squared distance of the action from the label.
- `gate.reward`, if the loop states one: minus that reward.

Where the label depends on the action, the log does not say what another action would have brought,
and `action_gate.py` judges.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.features.estimates.intervals import Floats, Interval, difference, interval
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import compile_reward
from tidemill.trainers.evaluation.metrics import (
    METRIC_NAMES,
    Candidate,
    Metric,
    MetricScore,
    losses,
    roc_auc,
    score,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a candidate is promoted, and why, in a sentence for people."""

    promoted: bool
    reason: str
    rows: int
    scores: tuple[MetricScore, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The rows to judge by, in order of time, and all predictions for them.

    ``continues`` names the live model if it is an earlier state of the same online learner. It has
    no predictions of its own, so the candidate is compared with the base rate alone. ``more_rows``
    says when there will be more rows to judge by.
    """

    label: Floats
    candidate: Candidate
    base_rate: float
    live: Candidate | None = None
    live_note: str = ""
    continues: str = ""
    more_rows: str = ""


def metric_of(loop: Loop) -> Metric:
    """Return the metric of the gate; for a label that is a number always the squared error."""
    return loop.gate.metric if loop.label.type == "bool" else "mse"


def judge(loop: Loop, evaluation: Evaluation) -> Verdict:
    """Return whether the gate of *loop* promotes the candidate of *evaluation*."""
    gate, rows = loop.gate, evaluation.label.size
    if rows < gate.min_rows:
        told = f"; {evaluation.more_rows}" if evaluation.more_rows else ""
        return refused(
            f"only {rows:,} later rows, the gate wants {gate.min_rows:,}{told}", rows=rows
        )
    if not np.isfinite(evaluation.candidate.predicted).all():
        return refused("some predictions are not numbers", rows=rows)
    metric = metric_of(loop)
    base = Candidate("base rate", "", np.full(rows, evaluation.base_rate))
    rivals = [base] if evaluation.live is None else [base, evaluation.live]
    scores = [
        score(one, metric, evaluation.label, gate.confidence)
        for one in (evaluation.candidate, *rivals)
    ]
    costs = _costs(loop, evaluation, gate.confidence)
    if not all(np.isfinite(each.value.mean) for each in costs):
        return refused("some rewards are not numbers", rows=rows)
    metrics = _metrics(loop, evaluation, scores, costs)
    every_score = (*scores, *costs)
    for rival, its in zip(rivals, scores[1:], strict=True):
        problem = _not_better(loop, evaluation, rival, scores[0], its)
        if problem:
            return refused(problem, rows=rows, scores=every_score, metrics=metrics)
    if costs and costs[0].value.mean > costs[1].value.mean:
        problem = (
            f"deciding by it costs {costs[0].value.mean:.4f} a decision, always "
            f"{loop.decision.default!r} costs {costs[1].value.mean:.4f} on {rows:,} later rows"
        )
        return refused(problem, rows=rows, scores=every_score, metrics=metrics)
    return Verdict(
        promoted=True,
        reason=_reason(evaluation, scores, costs),
        rows=rows,
        scores=every_score,
        metrics=metrics,
    )


def _not_better(
    loop: Loop, evaluation: Evaluation, rival: Candidate, own: MetricScore, its: MetricScore
) -> str | None:
    """Return why the candidate is not better than *rival*, or None."""
    gap = _gap(loop, evaluation, rival, own.metric)
    name = METRIC_NAMES[own.metric]
    whom = "the base rate's" if rival.name == "base rate" else f"the live {rival.version}'s"
    if own.value.mean >= its.value.mean:
        return (
            f"{name} {own.value.mean:.4f} is not below {whom} {its.value.mean:.4f} "
            f"on {own.rows:,} later rows"
        )
    if gap.high >= 0.0:
        return (
            f"{name} {own.value.mean:.4f} is below {whom} {its.value.mean:.4f} "
            f"on {own.rows:,} later rows, but that may be chance: the difference is between "
            f"{gap.low:.4f} and {gap.high:.4f} with {loop.gate.confidence:.0%} confidence"
        )
    return None


def _gap(loop: Loop, evaluation: Evaluation, rival: Candidate, metric: Metric) -> Interval:
    own = losses(metric, evaluation.label, evaluation.candidate.predicted)
    its = losses(metric, evaluation.label, rival.predicted)
    return difference(own, its, loop.gate.confidence)


def _costs(loop: Loop, evaluation: Evaluation, confidence: float) -> list[MetricScore]:
    """Return the cost of deciding by the candidate and by the default alone; none if unknown."""
    by_candidate = policy_cost(loop, evaluation.label, evaluation.candidate.predicted)
    by_default = default_cost(loop, evaluation.label)
    if by_candidate is None or by_default is None:
        return []
    named = (
        (evaluation.candidate.name, evaluation.candidate.version, by_candidate),
        ("default", "", by_default),
    )
    return [
        MetricScore(
            name=name,
            version=version,
            metric="policy_cost",
            value=interval(cost, confidence),
            rows=cost.size,
        )
        for name, version, cost in named
    ]


def policy_cost(loop: Loop, label: Floats, predicted: Floats) -> Floats | None:
    """Return the cost of the policy's action for each prediction; None if it is not judged."""
    policy, stated = loop.policy, compile_reward(loop)
    if stated is not None:
        return -stated.of(label, _actions(loop, predicted))
    if policy.kind == "threshold" and loop.label.type == "bool":
        return _action_cost(loop, label, predicted >= policy.threshold)
    if policy.kind == "value":
        return np.square(np.clip(predicted, policy.low, policy.high) - label)
    return None


def default_cost(loop: Loop, label: Floats) -> Floats | None:
    """Return the cost of the default action for each row; None if it is not judged."""
    policy, default, stated = loop.policy, loop.decision.default, compile_reward(loop)
    if stated is not None:
        return -stated.of(label, pl.Series([default] * label.size))
    if policy.kind == "threshold" and loop.label.type == "bool":
        above = True if policy.above is None else policy.above
        return _action_cost(loop, label, np.full(label.size, default == above))
    if policy.kind == "value" and isinstance(default, int | float):
        return np.square(float(default) - label)
    return None


def _actions(loop: Loop, predicted: Floats) -> pl.Series:
    """Return what the policy answers to each prediction."""
    policy = loop.policy
    if policy.kind == "value":
        return pl.Series(np.clip(predicted, policy.low, policy.high))
    is_above = (predicted >= policy.threshold).tolist()
    return pl.Series([policy.above if each else policy.below for each in is_above])


def _action_cost(loop: Loop, label: Floats, above: NDArray[np.bool_]) -> Floats:
    needless, missing = 2.0 * loop.policy.threshold, 2.0 * (1.0 - loop.policy.threshold)
    positive = label > 0.5
    return np.where(above & ~positive, needless, 0.0) + np.where(~above & positive, missing, 0.0)


def _metrics(
    loop: Loop, evaluation: Evaluation, scores: list[MetricScore], costs: list[MetricScore]
) -> dict[str, float]:
    """Return the metrics for registry and manifest."""
    metric = scores[0].metric
    found = {
        metric: scores[0].value.mean,
        f"{metric}_low": scores[0].value.low,
        f"{metric}_high": scores[0].value.high,
        f"base_{metric}": scores[1].value.mean,
        "later_rows": float(evaluation.label.size),
    }
    if loop.label.type == "bool":
        found["auc"] = roc_auc(evaluation.label, evaluation.candidate.predicted)
    if evaluation.live is not None:
        found[f"live_{metric}"] = scores[2].value.mean
    if costs:
        found["policy_cost"] = costs[0].value.mean
        found["default_cost"] = costs[1].value.mean
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _reason(evaluation: Evaluation, scores: list[MetricScore], costs: list[MetricScore]) -> str:
    own = scores[0]
    parts = [f"{METRIC_NAMES[own.metric]} {own.value.mean:.4f} on {own.rows:,} later rows"]
    parts.append(f"base rate {scores[1].value.mean:.4f}")
    if evaluation.live is not None:
        parts.append(f"live {evaluation.live.version} {scores[2].value.mean:.4f}")
    if costs:
        parts.append(f"policy cost {costs[0].value.mean:.4f}, default {costs[1].value.mean:.4f}")
    else:
        parts.append("against the default not judged: this policy's actions leave no such evidence")
    if evaluation.continues:
        parts.append(f"it continues the live {evaluation.continues}")
    if evaluation.live_note:
        parts.append(evaluation.live_note)
    return "promoted: " + "; ".join(parts)


def refused(
    why: str,
    *,
    rows: int,
    scores: tuple[MetricScore, ...] = (),
    metrics: Mapping[str, float] | None = None,
) -> Verdict:
    """Return the verdict that a candidate is not promoted, and *why*."""
    return Verdict(
        promoted=False,
        reason=f"not promoted: {why}",
        rows=rows,
        scores=scores,
        metrics=metrics or {},
    )
