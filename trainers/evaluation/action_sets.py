"""Evaluation sets where labels depend on the action: what each policy would do in explored rows.

The rows are those of `evaluation_sets.py`, less those that no chance decided. While the default
decides because a model was taken back, only decisions after that count: a candidate needs other
evidence than that which promoted the model before.
"""

from dataclasses import replace

import numpy as np
import polars as pl

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import scored_actions
from tidemill.trainers.evaluation.action_gate import ActionEvaluation, ScoredPolicy
from tidemill.trainers.evaluation.evaluation_sets import (
    EvaluationSets,
    EvaluationWindow,
    load_model,
    predictor_of,
)
from tidemill.trainers.evaluation.live_watch import LiveWatch
from tidemill.trainers.evaluation.model_policies import action_scores, chances, model_chances
from tidemill.trainers.evaluation.rewards import Rewards
from tidemill.trainers.learners.batch import Trained
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rows import Integers, LabeledRows


def action_evaluation(
    loop: Loop, rewards: Rewards, rows: LabeledRows, scores: Floats, version: str
) -> ActionEvaluation:
    """Return the evaluation of a candidate against the default on explored *rows*.

    Args:
        loop: whose models score actions.
        rewards: its rewards.
        rows: explored rows, oldest first.
        scores: what the candidate predicts for each action in them, shape (n, actions).
        version: that of the candidate.
    """
    if rows.logged is None:
        raise ValueError(f"no model of {loop.loop} scores actions")
    return ActionEvaluation(
        reward=rewards.of(rows.label, rows.logged.action),
        logged=rows.logged,
        expected=rewards.expected(scores),
        candidate=ScoredPolicy(version, chances(scores, loop)),
        first_at=rows.at[0] if len(rows) else None,
        last_at=rows.last_at,
    )


class ActionSets:
    """Makes the evaluations of candidates by what was explored.

    Args:
        loop: whose models score actions.
        sets: the evaluation sets of the loop.
        registry: where the models are.
    """

    def __init__(self, loop: Loop, sets: EvaluationSets, registry: Registry) -> None:
        self._loop, self._sets, self._registry = loop, sets, registry
        self._rewards = Rewards(loop)

    def of_batch(self, trained: Trained, later: LabeledRows, version: str) -> ActionEvaluation:
        """Return the evaluation of a batch model on the rows held out from it."""
        rows = self._explored(later)
        live, note = self._sets.live()
        its = None
        if live is not None:
            indices, its = self._chances_of(live, rows)
            rows = rows.take(indices)
        batch = self._loop.models.batch
        model = predictor_of(trained.learner, trained.payload, trained.signature)
        scores = action_scores(model, rows.features, self._loop)
        return self._evaluation(
            rows, scores, version, live, its, note, share=batch.holdout if batch else 1.0
        )

    def of_online(self, window: EvaluationWindow, version: str, snapshot: int) -> ActionEvaluation:
        """Return the evaluation of an online learner by what it would have served."""
        served = window.predictions.filter(pl.col("scores").is_not_null())
        rows, served = self._sets.labelled(served, snapshot)
        scores = self._matrix(served)
        kept = self._explored_numbers(rows)
        rows, scores = rows.take(kept), scores[kept]
        live, note = self._sets.live()
        its, continued = None, ""
        if live is not None and self._sets.is_learning(live):
            continued, live = live.version, None
        elif live is not None:
            indices, its = self._chances_of(live, rows)
            rows, scores = rows.take(indices), scores[indices]
        return self._evaluation(rows, scores, version, live, its, note, continues=continued)

    def watch(self, live: ModelVersion, newest: int) -> LiveWatch:
        """Return the watch on *live*, which has seen nothing yet.

        *newest* is the version of ``examples``: a restored model counts those of the lost lake.
        """
        return LiveWatch(
            self._loop,
            version=live.version,
            model=load_model(live, self._registry.payload(live)),
            signature=live.signature,
            seen_until=min(live.snapshot, newest),
        )

    def _evaluation(
        self,
        rows: LabeledRows,
        scores: Floats,
        version: str,
        live: ModelVersion | None,
        its: Floats | None,
        note: str,
        *,
        share: float = 1.0,
        continues: str = "",
    ) -> ActionEvaluation:
        found = action_evaluation(self._loop, self._rewards, rows, scores, version)
        return replace(
            found,
            live=None if live is None or its is None else ScoredPolicy(live.version, its),
            live_note=note,
            continues=continues,
            share=share,
            look=self._registry.looks() + 1,
        )

    def _explored(self, rows: LabeledRows) -> LabeledRows:
        return rows.take(self._explored_numbers(rows))

    def _explored_numbers(self, rows: LabeledRows) -> Integers:
        """Return the numbers of the rows that can judge a policy."""
        if rows.logged is None:
            raise ValueError(f"no model of {self._loop.loop} scores actions")
        known, since = rows.logged.is_explored, self._registry.taken_back_until()
        if since is not None:
            known &= (rows.at > since).to_numpy()
        return np.flatnonzero(known)

    def _chances_of(self, live: ModelVersion, rows: LabeledRows) -> tuple[Integers, Floats]:
        """Return the numbers of *rows* that can judge the live model, and what it does in them."""
        if self._sets.is_learning(live):
            served = self._sets.served(rows).filter(pl.col("scores").is_not_null())
            numbers = served.get_column("index").to_numpy()
            return numbers, chances(self._matrix(served), self._loop)
        unseen = self._sets.unseen_from(live)
        start = 0 if unseen is None else rows.since(unseen)
        model = load_model(live, self._registry.payload(live))
        features = rows.features[start:]
        return (
            np.arange(start, len(rows)),
            model_chances(model, live.signature, features, self._loop),
        )

    def _matrix(self, served: pl.DataFrame) -> Floats:
        """Return the scores of *served* predictions, shape (n, actions)."""
        width = len(scored_actions(self._loop))
        scores = served.get_column("scores").cast(pl.Array(pl.Float64, width))
        return scores.to_numpy().reshape(-1, width)
