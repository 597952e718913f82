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
from tidemill.schemas.models.feature_signature import FeatureSignature, scored_actions
from tidemill.schemas.models.fit import learned_actions
from tidemill.trainers.evaluation.action_gate import ActionEvaluation
from tidemill.trainers.evaluation.evaluation_sets import (
    EvaluationSets,
    EvaluationWindow,
    load_model,
    predictor_of,
)
from tidemill.trainers.evaluation.live_watch import LiveWatch
from tidemill.trainers.evaluation.model_policies import (
    FramePredictor,
    ScoredPolicy,
    action_scores,
    certain,
    chances,
    filled,
    judged,
    model_chances,
)
from tidemill.trainers.evaluation.rewards import Rewards
from tidemill.trainers.learners.batch import Trained
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rows import Integers, LabeledRows, LoggedActions


def explored_actions(rows: LabeledRows) -> LoggedActions:
    """Return what was done in *rows*, of a loop whose models score actions."""
    if rows.logged is None:
        raise ValueError("these rows have no logged actions")
    return rows.logged


def action_evaluation(
    loop: Loop,
    rewards: Rewards,
    rows: LabeledRows,
    scores: Floats,
    version: str,
    live: ScoredPolicy | None = None,
) -> ActionEvaluation:
    """Return the evaluation of a candidate against the default on explored *rows*.

    Args:
        loop: whose models score actions.
        rewards: its rewards.
        rows: explored rows, oldest first.
        scores: what the candidate predicts for each action in them, shape (n, actions).
        version: that of the candidate.
        live: the live model in these rows; None if there is none to compare with.
    """
    logged, candidate = explored_actions(rows), ScoredPolicy(version, chances(scores, loop))
    reward = rewards.of(rows.label, logged.action)
    found = compared(reward, logged, rewards.expected(filled(scores)), candidate, live)
    return replace(found, first_at=rows.at[0] if len(rows) else None, last_at=rows.last_at)


def compared(
    reward: Floats,
    logged: LoggedActions,
    expected: Floats,
    candidate: ScoredPolicy,
    live: ScoredPolicy | None = None,
) -> ActionEvaluation:
    """Return the evaluation of policies on rows that were *logged* and earned *reward*.

    *expected* is the reward that the candidate's model predicts of each action, (n, actions).
    """
    default = ScoredPolicy("the default", certain(logged.baseline, logged.actions))
    return ActionEvaluation(
        reward=reward,
        predicted=expected[np.arange(reward.size), logged.action],
        candidate=judged(candidate, logged, expected),
        default=judged(default, logged, expected),
        live=None if live is None else judged(live, logged, expected),
    )


def model_evaluation(
    loop: Loop,
    rewards: Rewards,
    rows: LabeledRows,
    model: FramePredictor,
    signature: FeatureSignature,
    version: str,
) -> ActionEvaluation:
    """Return the evaluation of a model on what of *rows* was explored.

    It may be a model that reads no action, of an earlier release.
    """
    rows = rows.take(np.flatnonzero(explored_actions(rows).is_explored))
    logged = explored_actions(rows)
    expected = np.zeros((len(rows), logged.actions))
    if signature.reads_action:
        learned = learned_actions(signature, loop)
        scores = action_scores(model, rows.features, loop, learned)
        expected = rewards.expected(filled(scores))
    chosen = ScoredPolicy(version, model_chances(model, signature, rows.features, loop))
    return compared(rewards.of(rows.label, logged.action), logged, expected, chosen)


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
        learned = learned_actions(trained.signature, self._loop)
        scores = action_scores(model, rows.features, self._loop, learned)
        return self._evaluation(
            rows, scores, version, live, its, note, share=batch.holdout if batch else 1.0
        )

    def of_online(self, window: EvaluationWindow, version: str, snapshot: int) -> ActionEvaluation:
        """Return the evaluation of an online learner by what it would have served."""
        served = self._scored(window.predictions)
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
        model = load_model(live, self._registry.payload(live))
        return LiveWatch(
            self._loop,
            version=live.version,
            evaluate=lambda rows: model_evaluation(
                self._loop, self._rewards, rows, model, live.signature, live.version
            ),
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
        rival = None if live is None or its is None else ScoredPolicy(live.version, its)
        found = action_evaluation(self._loop, self._rewards, rows, scores, version, rival)
        return replace(
            found,
            live_note=note,
            continues=continues,
            share=share,
            look=self._registry.looks() + 1,
        )

    def _explored(self, rows: LabeledRows) -> LabeledRows:
        return rows.take(self._explored_numbers(rows))

    def _explored_numbers(self, rows: LabeledRows) -> Integers:
        """Return the numbers of the rows that can judge a policy."""
        known, since = explored_actions(rows).is_explored, self._registry.taken_back_until()
        if since is not None:
            known &= (rows.at > since).to_numpy()
        return np.flatnonzero(known)

    def _chances_of(self, live: ModelVersion, rows: LabeledRows) -> tuple[Integers, Floats]:
        """Return the numbers of *rows* that can judge the live model, and what it does in them."""
        if self._sets.is_learning(live):
            served = self._scored(self._sets.served(rows))
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

    def _scored(self, served: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of *served* whose scores can be assigned to actions.

        Those of earlier releases do not say which actions they are of.
        """
        is_same_size = pl.col("scores").list.len() == len(scored_actions(self._loop))
        return served.filter(
            pl.col("scores").is_not_null() & (pl.col("actions").is_not_null() | is_same_size)
        )

    def _matrix(self, served: pl.DataFrame) -> Floats:
        """Return the scores of *served* predictions by action, shape (n, actions).

        An action that the loop did not have when they were made is not learned: nan.
        """
        wanted = scored_actions(self._loop)
        known = pl.col("actions").fill_null(pl.lit(wanted))
        columns = [
            pl.when(known.list.contains(action))
            .then(
                pl.col("scores").list.get(
                    known.list.eval(pl.element() == action).list.arg_max(), null_on_oob=True
                )
            )
            .fill_null(np.nan)
            .alias(action)
            for action in wanted
        ]
        return served.select(columns).to_numpy()
