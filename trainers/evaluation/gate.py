"""The gate: what a candidate has to prove before it decides anything, and the sentence it gets.

A candidate must be better than the base rate and than the live model, more than chance explains,
and the actions it leads to must not cost more than the loop's default alone; all on the same rows,
later than those it learned from. It knows no lake, no topic and no learner.

The cost of deciding, where the shape of the decision allows it:

- threshold: one wrong action costs 1 at threshold 0.5. A threshold of t says that a needless
  ``above`` is worth t and a missing one 1 - t, so those cost 2t and 2(1 - t).
- value: the squared distance of the action from the label.
- greedy: not judged here; what another action would have brought is not in the log. That takes
  propensities and is the business of off-policy estimates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.evaluation.metrics import (
    METRIC_NAMES,
    Candidate,
    Floats,
    Interval,
    Metric,
    MetricScore,
    difference,
    interval,
    losses,
    roc_auc,
    score,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a candidate goes live, and why, in a sentence for people."""

    promoted: bool
    reason: str
    rows: int
    scores: tuple[MetricScore, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The rows to judge by, in order of time, and what everyone predicts for them.

    ``continues`` says that the live model is an earlier state of the same online learner: it has
    no predictions of its own to beat, its successor only has to keep its footing.
    """

    label: Floats
    candidate: Candidate
    base_rate: float
    live: Candidate | None = None
    live_note: str = ""
    continues: str = ""


def metric_of(loop: Loop) -> Metric:
    """Return the gate's metric; a label that is a number is always judged by squared error."""
    return loop.gate.metric if loop.label.type == "bool" else "mse"


def judge(loop: Loop, trial: Evaluation) -> Verdict:
    """Return whether the candidate of *trial* may go live under the gate of *loop*."""
    gate, rows = loop.gate, trial.label.size
    if rows < gate.min_rows:
        return _refused(f"only {rows:,} later rows, the gate wants {gate.min_rows:,}", rows=rows)
    if not np.isfinite(trial.candidate.predicted).all():
        return _refused("some predictions are not numbers", rows=rows)
    metric = metric_of(loop)
    base = Candidate("base rate", "", np.full(rows, trial.base_rate))
    rivals = [base] if trial.live is None else [base, trial.live]
    scores = [
        score(one, metric, trial.label, gate.confidence) for one in (trial.candidate, *rivals)
    ]
    costs = _costs(loop, trial, gate.confidence)
    metrics = _metrics(loop, trial, scores, costs)
    told = (*scores, *costs)
    for rival, its in zip(rivals, scores[1:], strict=True):
        problem = _not_better(loop, trial, rival, scores[0], its)
        if problem:
            return _refused(problem, rows=rows, scores=told, metrics=metrics)
    if costs and costs[0].value.mean > costs[1].value.mean:
        problem = (
            f"deciding by it costs {costs[0].value.mean:.4f} a decision, always "
            f"{loop.decision.default!r} costs {costs[1].value.mean:.4f} on {rows:,} later rows"
        )
        return _refused(problem, rows=rows, scores=told, metrics=metrics)
    return Verdict(
        promoted=True,
        reason=_praise(trial, scores, costs),
        rows=rows,
        scores=told,
        metrics=metrics,
    )


def _not_better(
    loop: Loop, trial: Evaluation, rival: Candidate, own: MetricScore, its: MetricScore
) -> str | None:
    """Return why the candidate is not better than *rival*, or None."""
    gap = _gap(loop, trial, rival, own.metric)
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


def _gap(loop: Loop, trial: Evaluation, rival: Candidate, metric: Metric) -> Interval:
    own = losses(metric, trial.label, trial.candidate.predicted)
    its = losses(metric, trial.label, rival.predicted)
    return difference(own, its, loop.gate.confidence)


def _costs(loop: Loop, trial: Evaluation, confidence: float) -> list[MetricScore]:
    """Return the cost of deciding by the candidate and by the default alone; none if unknown."""
    by_candidate = policy_cost(loop, trial.label, trial.candidate.predicted)
    by_default = default_cost(loop, trial.label)
    if by_candidate is None or by_default is None:
        return []
    named = (
        (trial.candidate.name, trial.candidate.version, by_candidate),
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
    """Return what each action costs that the policy takes by *predicted*; None if not judged."""
    policy = loop.policy
    if policy.kind == "threshold" and loop.label.type == "bool":
        return _action_cost(loop, label, predicted >= policy.threshold)
    if policy.kind == "value":
        return np.square(np.clip(predicted, policy.low, policy.high) - label)
    return None


def default_cost(loop: Loop, label: Floats) -> Floats | None:
    """Return what each row costs if the loop always takes its default; None if not judged."""
    policy, default = loop.policy, loop.decision.default
    if policy.kind == "threshold" and loop.label.type == "bool":
        above = True if policy.above is None else policy.above
        return _action_cost(loop, label, np.full(label.size, default == above))
    if policy.kind == "value" and isinstance(default, int | float):
        return np.square(float(default) - label)
    return None


def _action_cost(loop: Loop, label: Floats, above: NDArray[np.bool_]) -> Floats:
    needless, missing = 2.0 * loop.policy.threshold, 2.0 * (1.0 - loop.policy.threshold)
    positive = label > 0.5
    return np.where(above & ~positive, needless, 0.0) + np.where(~above & positive, missing, 0.0)


def _metrics(
    loop: Loop, trial: Evaluation, scores: list[MetricScore], costs: list[MetricScore]
) -> dict[str, float]:
    """Return the numbers that travel with the model."""
    metric = scores[0].metric
    found = {
        metric: scores[0].value.mean,
        f"{metric}_low": scores[0].value.low,
        f"{metric}_high": scores[0].value.high,
        f"base_{metric}": scores[1].value.mean,
        "later_rows": float(trial.label.size),
    }
    if loop.label.type == "bool":
        found["auc"] = roc_auc(trial.label, trial.candidate.predicted)
    if trial.live is not None:
        found[f"live_{metric}"] = scores[2].value.mean
    if costs:
        found["policy_cost"] = costs[0].value.mean
        found["default_cost"] = costs[1].value.mean
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _praise(trial: Evaluation, scores: list[MetricScore], costs: list[MetricScore]) -> str:
    own = scores[0]
    parts = [f"{METRIC_NAMES[own.metric]} {own.value.mean:.4f} on {own.rows:,} later rows"]
    parts.append(f"base rate {scores[1].value.mean:.4f}")
    if trial.live is not None:
        parts.append(f"live {trial.live.version} {scores[2].value.mean:.4f}")
    if costs:
        parts.append(f"policy cost {costs[0].value.mean:.4f}, default {costs[1].value.mean:.4f}")
    else:
        parts.append("against the default not judged: this policy's actions leave no such evidence")
    if trial.continues:
        parts.append(f"it continues the live {trial.continues}")
    if trial.live_note:
        parts.append(trial.live_note)
    return "promoted: " + "; ".join(parts)


def _refused(
    why: str,
    *,
    rows: int,
    scores: tuple[MetricScore, ...] = (),
    metrics: Mapping[str, float] | None = None,
) -> Verdict:
    return Verdict(
        promoted=False,
        reason=f"not promoted: {why}",
        rows=rows,
        scores=scores,
        metrics=metrics or {},
    )
