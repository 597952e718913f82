"""The gate: decides whether a candidate is promoted to live, with a sentence that says why.

A candidate must have a lower loss than the base rate and than the live model, by more than chance
explains, and its actions must not cost more than the loop's default action alone. All are compared
on the same rows, which are later than those the candidate learned.

The cost of deciding:

- threshold: a wrong action costs twice the distance of the label from the threshold. So at
  threshold 0.5 a wrong answer to a bool label costs 1, and at t a needless ``above`` 2t and a
  missing one 2(1 - t).
- value: the squared distance of the action from the label.
- `gate.reward`, if the loop states one: minus that reward.

Where the label depends on the action, the log does not say what another action would have brought,
and `action_gate.py` judges.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

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
    says when there will be more rows to judge by. ``baseline`` is what each request would have got
    without the loop; None if that is the default of the loop for all of them.
    """

    label: Floats
    candidate: Candidate
    base_rate: float
    baseline: pl.Series | None = None
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
    if costs[0].value.mean > costs[1].value.mean:
        is_baseline = evaluation.baseline is not None
        default = "the baseline" if is_baseline else f"always {loop.decision.default!r}"
        problem = (
            f"deciding by it costs {costs[0].value.mean:.4f} a decision, {default} costs "
            f"{costs[1].value.mean:.4f} on {rows:,} later rows"
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
    """Return the cost of deciding by the candidate, and by the default alone."""
    by_candidate = policy_cost(loop, evaluation.label, evaluation.candidate.predicted)
    by_default = default_cost(loop, evaluation.label, evaluation.baseline)
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


def policy_cost(loop: Loop, label: Floats, predicted: Floats) -> Floats:
    """Return the cost of the policy's action for each prediction."""
    policy = loop.policy
    if policy.kind == "value":
        return action_cost(loop, label, pl.Series(np.clip(predicted, policy.low, policy.high)))
    is_above = (predicted >= policy.threshold).tolist()
    return action_cost(
        loop, label, pl.Series([policy.above if each else policy.below for each in is_above])
    )


def default_cost(loop: Loop, label: Floats, baseline: pl.Series | None = None) -> Floats:
    """Return the cost of the default action, or of the *baseline* if there is one, for each row."""
    if baseline is None:
        baseline = pl.Series([loop.decision.default] * label.size)
    return action_cost(loop, label, baseline)


def action_cost(loop: Loop, label: Floats, action: pl.Series) -> Floats:
    """Return what each *action* costs, where the label is the same whatever is decided."""
    policy, stated = loop.policy, compile_reward(loop)
    if stated is not None:
        return -stated.of(label, action)
    if policy.kind == "value":
        return np.asarray(np.square(action.to_numpy() - label))
    is_above = (action == policy.above).to_numpy()
    beyond = label - policy.threshold
    return 2.0 * np.where(is_above, np.maximum(-beyond, 0.0), np.maximum(beyond, 0.0))


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
    found["policy_cost"] = costs[0].value.mean
    found["default_cost"] = costs[1].value.mean
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _reason(evaluation: Evaluation, scores: list[MetricScore], costs: list[MetricScore]) -> str:
    own = scores[0]
    parts = [f"{METRIC_NAMES[own.metric]} {own.value.mean:.4f} on {own.rows:,} later rows"]
    parts.append(f"base rate {scores[1].value.mean:.4f}")
    if evaluation.live is not None:
        parts.append(f"live {evaluation.live.version} {scores[2].value.mean:.4f}")
    parts.append(f"policy cost {costs[0].value.mean:.4f}, default {costs[1].value.mean:.4f}")
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
