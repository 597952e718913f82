"""The parts of a score: what each feature adds to it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.deploy.explain.logged import LoggedDecision
from tidemill.schemas.models.feature_signature import (
    ACTION,
    FeatureRow,
    FeatureSignature,
    action_text,
    scored_actions,
)
from tidemill.serving.policies.choice import ScoreFunction
from tidemill.trainers.evaluation.model_policies import AdditiveModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreParts:
    """One score and what it is the sum of.

    Attributes:
        action: the action or the item that was scored; None for a model that reads neither.
        score: what the model predicts, as workers compute it.
        raw: the sum of *base* and the *contributions*; of a bool label the log-odds of *score*,
            unless the model is a posterior.
        base: what is there without any feature.
        contributions: what each feature adds, in the order of the loop, the action last; those of
            an item come after those of the loop.
        features: what the model read beside the action, by name.
    """

    action: str | None
    score: float
    raw: float
    base: float
    contributions: Mapping[str, float]
    features: FeatureRow

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return {
            "action": self.action,
            "score": self.score,
            "raw": self.raw,
            "base": self.base,
            "contributions": dict(self.contributions),
        }


def score_parts(
    logged: LoggedDecision,
    model: AdditiveModel,
    signature: FeatureSignature,
    score: ScoreFunction,
    taken: object,
) -> tuple[ScoreParts, ...]:
    """Return the parts of the score; of a model of actions those of *taken* and of the runner-up.

    The runner-up is the best of the other actions.

    Args:
        logged: the decision.
        model: the model that scored it.
        signature: what the model reads.
        score: scores its features, with the action last where the model reads one.
        taken: the action that the policy took.
    """
    if not signature.reads_action:
        return (_parts(logged.features, model, None, score(logged.values)),)
    scores = {name: score((*logged.values, name)) for name in scored_actions(logged.loop)}
    first = action_text(taken)
    others = sorted((name for name in scores if name != first), key=lambda name: -scores[name])
    shown = [first, *others[:1]]
    return tuple(
        _parts({**logged.features, ACTION: name}, model, name, scores[name])
        for name in shown
        if name in scores
    )


def item_parts(
    logged: LoggedDecision,
    model: AdditiveModel,
    score: ScoreFunction,
    taken: object,
    named: str | None,
) -> tuple[ScoreParts, ...]:
    """Return the parts of the scores of two items: the one *taken*, and another one.

    That is the one *named*, or the runner-up: the best of the others. Of a ranking the first item
    was taken.
    """
    items = {item.id: item for item in logged.items}
    scores = item_scores(logged, score)
    first = action_text(taken)
    others = sorted((name for name in scores if name != first), key=lambda name: -scores[name])
    wanted = [first, *others[:1]] if named is None else dict.fromkeys([first, named])
    return tuple(
        _parts({**logged.features, **items[name].features}, model, name, scores[name])
        for name in wanted
        if name in items
    )


def item_scores(logged: LoggedDecision, score: ScoreFunction) -> dict[str, float]:
    """Return the score of each item of *logged*, by its id."""
    items = logged.request_items
    found = (score((*logged.values, *row)) for row in items.rows)
    return dict(zip(items.ids, found, strict=True))


def _parts(row: FeatureRow, model: AdditiveModel, action: str | None, score: float) -> ScoreParts:
    added, base = model.contributions(row)
    raw = math.fsum([base, *added.values()])
    return ScoreParts(
        action=action,
        score=score,
        raw=raw,
        base=base,
        contributions=added,
        features={name: value for name, value in row.items() if name != ACTION},
    )
