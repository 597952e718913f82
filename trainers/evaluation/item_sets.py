"""Evaluation sets where requests bring items: what each policy would do in explored decisions.

Candidate, live model and default are compared on the same later decisions, by all items that their
events have. A batch model scores them itself. An online learner has learned these rows, so each
decision is scored by the state that it had offered when the decision was made (`prequential.py`).
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.features.estimates.intervals import Floats
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.evaluation.action_gate import ActionEvaluation, JudgedPolicy
from tidemill.trainers.evaluation.evaluation_sets import (
    EvaluationSets,
    EvaluationWindow,
    load_model,
    predictor_of,
)
from tidemill.trainers.evaluation.item_evaluations import item_evaluation
from tidemill.trainers.evaluation.live_watch import LiveWatch
from tidemill.trainers.evaluation.model_policies import FramePredictor
from tidemill.trainers.evaluation.offered_items import BLOCK_ROWS, offered_items
from tidemill.trainers.evaluation.rewards import Rewards
from tidemill.trainers.learners.batch import Trained
from tidemill.trainers.learners.prequential import OfferedStates
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rows import LabeledRows

MOST_ITEMS = 1_000_000
"""Items that judge a candidate, those of the newest decisions: they are scored in some seconds."""

Score = Callable[[pl.DataFrame, pl.Series], Floats]
"""Scores features, one row an item, of decisions at these times."""


class ItemSets:
    """Makes the evaluations of candidates by what was explored among items.

    Args:
        loop: whose requests bring items.
        lake: where its decisions are.
        sets: the evaluation sets of the loop.
        registry: where the models are.
        states: the states that the online learner has offered; None if the loop has none.
        most_items: how many items may judge a candidate, and a block more.
        block_rows: rows whose items are in memory together.
    """

    def __init__(
        self,
        loop: Loop,
        lake: Lake,
        sets: EvaluationSets,
        registry: Registry,
        states: OfferedStates | None,
        *,
        most_items: int = MOST_ITEMS,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        self._loop, self._lake, self._sets, self._registry = loop, lake, sets, registry
        self._states = states
        self._most_items, self._block_rows = most_items, block_rows
        self._rewards = Rewards(loop)

    def of_batch(self, trained: Trained, later: LabeledRows, version: str) -> ActionEvaluation:
        """Return the evaluation of a batch model on the rows held out from it."""
        live, note = self._sets.live()
        batch = self._loop.models.batch
        model = predictor_of(trained.learner, trained.payload, trained.signature)
        found = self._compared(later, version, _by_model(model), live)
        return replace(found, live_note=note, share=batch.holdout if batch else 1.0)

    def of_online(self, window: EvaluationWindow, version: str, snapshot: int) -> ActionEvaluation:
        """Return the evaluation of an online learner by what it would have served."""
        live, note = self._sets.live()
        continued = ""
        if live is not None and self._sets.is_learning(live):
            continued, live = live.version, None
        times, states = window.predictions.get_column("at"), self._states
        if states is None or states.since is None or not len(times):
            return _nothing(version)
        since = max(states.since, times[0])
        training = training_set(self._lake, self._loop, version=snapshot, since=since)
        rows = LabeledRows.of(training, self._loop)
        found = self._compared(rows, version, _by_states(states), live)
        return replace(found, live_note=note, continues=continued)

    def watch(self, live: ModelVersion, newest: int) -> LiveWatch:
        """Return the watch on *live*, which has seen nothing yet.

        *newest* is the version of ``examples``: a restored model counts those of the lost lake.
        """
        model = load_model(live, self._registry.payload(live))
        return LiveWatch(
            self._loop,
            version=live.version,
            evaluate=lambda rows: self._evaluated(rows, (live.version, _by_model(model)), None),
            seen_until=min(live.snapshot, newest),
        )

    def _compared(
        self, rows: LabeledRows, version: str, score: Score, live: ModelVersion | None
    ) -> ActionEvaluation:
        """Return the evaluation on those of *rows* that can judge candidate and live model."""
        rows, rival = rows.after(self._registry.taken_back_until()), None
        if live is not None:
            unseen, its = self._live_score(live)
            rows = rows.slice(0 if unseen is None else rows.since(unseen), len(rows))
            rival = (live.version, its)
        found = self._evaluated(rows, (version, score), rival)
        return replace(found, look=self._registry.looks() + 1)

    def _live_score(self, live: ModelVersion) -> tuple[datetime | None, Score]:
        """Return the time from which on *live* can be judged, and its scores."""
        states = self._states
        if self._sets.is_learning(live) and states is not None and states.since is not None:
            return states.since, _by_states(states)
        return self._sets.unseen_from(live), _by_model(
            load_model(live, self._registry.payload(live))
        )

    def _evaluated(
        self, rows: LabeledRows, candidate: tuple[str, Score], live: tuple[str, Score] | None
    ) -> ActionEvaluation:
        """Return the evaluation on *rows*, or on the newest of them if they are too many."""
        items, parts = self._loop.decision.items, []
        left = self._most_items if items is not None and items.log == "all" else 0
        blocks = offered_items(self._lake, self._loop, rows, self._block_rows)
        for offered in blocks if left else ():
            scored = [
                (version, score(offered.features, offered.at))
                for version, score in (candidate, *([live] if live else []))
            ]
            if len(offered.rows):
                parts.append(item_evaluation(self._loop, self._rewards, offered, *scored))
            left -= offered.place.size
            if left <= 0:
                break
        return _joined(parts[::-1]) if parts else _nothing(candidate[0])


def _by_model(model: FramePredictor) -> Score:
    return lambda features, _times: model.predict(features)


def _by_states(states: OfferedStates) -> Score:
    def score(features: pl.DataFrame, times: pl.Series) -> Floats:
        found = states.predict(times.to_list(), features.iter_rows(named=True))
        return np.array(found, dtype=np.float64)  # None becomes nan

    return score


def _nothing(version: str) -> ActionEvaluation:
    """Return the evaluation of a candidate on no row."""
    none = np.empty(0)
    policy = JudgedPolicy(version, none, none)
    return ActionEvaluation(reward=none, predicted=none, candidate=policy, default=policy)


def _joined(parts: list[ActionEvaluation]) -> ActionEvaluation:
    """Return one evaluation on the rows of all *parts*, which are in order of time."""
    first, lives = parts[0], [part.live for part in parts if part.live is not None]
    offsets = np.cumsum([0, *(part.reward.size for part in parts[:-1])])
    firsts = [
        part.first_rows + offset
        for part, offset in zip(parts, offsets, strict=True)
        if part.first_rows is not None
    ]
    return replace(
        first,
        reward=np.concatenate([part.reward for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        candidate=_together([part.candidate for part in parts]),
        default=_together([part.default for part in parts]),
        live=_together(lives) if lives else None,
        first_rows=np.concatenate(firsts) if firsts else None,
        last_at=parts[-1].last_at,
    )


def _together(policies: list[JudgedPolicy]) -> JudgedPolicy:
    return JudgedPolicy(
        policies[0].version,
        np.concatenate([policy.weight for policy in policies]),
        np.concatenate([policy.expected for policy in policies]),
    )
