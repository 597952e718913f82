"""The run of an online learner: it learns commit by commit, predicts, and offers its states.

`OnlineRun` joins the learner, the states it has offered to the gate, and the predictions stored of
them. It restores all three from the lake when the trainer starts again.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import polars as pl

from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.models.feature_signature import ACTION, scored_actions
from tidemill.schemas.models.river_state import LinearPredictor, LinearState
from tidemill.trainers.commit_log import commits_after
from tidemill.trainers.learners.batch import Cost, Stopwatch, Trained, software
from tidemill.trainers.learners.online import OnlineLearner, continues, settings_of
from tidemill.trainers.learners.prequential import MAX_STATES, OfferedStates, Predictions
from tidemill.trainers.registry import ModelVersion, Registry

logger = logging.getLogger(__name__)


class OnlineRun:
    """The online learner of one loop, continued from its newest state in the registry.

    Args:
        loop: whose learner.
        online: which learner.
        lake: where examples are read and predictions are stored.
        registry: where its offered states are.
    """

    def __init__(self, loop: Loop, online: Online, lake: Lake, registry: Registry) -> None:
        self.predictions = Predictions(lake, loop.loop, online, is_weighted=loop.scores_actions)
        self._loop, self._online = loop, online
        self._actions = scored_actions(loop)
        self._examples: Table = lake.table(loop.loop, EXAMPLES)
        self._offered = OfferedStates(loop.wait + loop.grace)
        self._spent = Cost(0.0, 0.0)
        self.learner = self._resumed(registry)
        self._offered_rows = self.learner.rows

    def _resumed(self, registry: Registry) -> OnlineLearner:
        """Return the learner of its newest offered state; older states predict later rows too."""
        state, until = None, None
        made = [model for model in registry.models() if model.learner == self._online.learner]
        for model in made[-MAX_STATES:]:
            if model.params != settings_of(
                self._loop, self._online
            ):  # of other rates, or of another lake
                continue
            found = LinearState.from_bytes(registry.payload(model))
            if continues(self._online, found):
                state, until = found, model.until
                self._offer(found, model)
        learner = OnlineLearner(self._loop, self._online, state)
        learner.until = until
        return learner

    def _offer(self, state: LinearState, model: ModelVersion) -> None:
        if model.until is not None:
            self._offered.add(model.until, LinearPredictor(state, model.signature))

    @property
    def fresh_rows(self) -> int:
        """How many rows were learned since the last offer."""
        return self.learner.rows - self._offered_rows

    def follow(self) -> Iterator[int]:
        """Learn each new commit when asked for the next, and yield its version."""
        start = self.learner.learned_until
        for version, rows in commits_after(
            self._examples, start, lambda: self.predictions.learned_ids(start)
        ):
            watch = Stopwatch()
            learned = self.learner.learn(version, rows)
            predictions = learned.predictions
            times: list[datetime] = predictions.get_column("at").to_list()
            served = self._served(times, learned.rows)
            self.predictions.add(version, predictions.with_columns(*served))
            self._spent = self._spent.plus(watch.read())
            yield version

    def _served(
        self, times: Sequence[datetime], rows: Sequence[Mapping[str, object]]
    ) -> tuple[pl.Series, pl.Series]:
        """Return what would have been served for *rows*, and the same for each scored action."""
        predicted = pl.Series("predicted", self._offered.predict(times, rows), pl.Float64)
        each = [
            self._offered.predict(times, [{**row, ACTION: action} for row in rows])
            for action in self._actions
        ]
        found = [None if None in scores else list(scores) for scores in zip(*each, strict=True)]
        return predicted, pl.Series("scores", found or [None] * len(rows), pl.List(pl.Float64))

    def save(self) -> None:
        """Store the predictions of the rows learned so far."""
        self.predictions.save()

    def candidate(self, base_rate: float) -> Trained | None:
        """Return the learner's state as a model; None if it has diverged and starts from zero."""
        learner, online = self.learner, self._online
        try:
            payload = learner.state().to_bytes()
        except ModelError as error:
            logger.warning("%s; it starts from zero: %s", error.what, error.hint)
            learner.restart()
            self._offered_rows = 0
            return None
        return Trained(
            learner=online.learner,
            payload=payload,
            signature=learner.signature,
            snapshot=learner.learned_until,
            rows=learner.rows,
            base_rate=base_rate,
            seed=0,
            params=settings_of(self._loop, online),
            software=software("river"),
            cost=self._spent,
        )

    def registered(self, model: ModelVersion, payload: bytes) -> None:
        """Let *model*, which is in the registry, predict the rows that follow."""
        self._offer(LinearState.from_bytes(payload), model)
        self._offered_rows = self.learner.rows
        self._spent = Cost(0.0, 0.0)
