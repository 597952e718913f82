"""The course of the online learner: commit by commit, what it would have served, what it offers.

Joins the learner with the states it has offered and the predictions that are kept of them, and
brings all three back from the lake after a kill. It knows no gate and no topic.
"""

import logging
from collections.abc import Iterator
from datetime import datetime

import polars as pl

from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.models.river_state import LinearPredictor, LinearState
from tidemill.trainers.commit_log import commits_after
from tidemill.trainers.learners.batch import Cost, Stopwatch, Trained, software
from tidemill.trainers.learners.online import OnlineLearner, continues, settings_of
from tidemill.trainers.learners.prequential import MAX_STATES, OfferedStates, Predictions
from tidemill.trainers.registry import ModelVersion, Registry

log = logging.getLogger(__name__)


class OnlineRun:
    """The online learner of one loop, from where the registry says it stood.

    Args:
        loop: whose learner.
        online: which learner.
        lake: where examples are read and predictions are kept.
        registry: where its states are.
    """

    def __init__(self, loop: Loop, online: Online, lake: Lake, registry: Registry) -> None:
        self.predictions = Predictions(lake, loop.loop, online)
        self._loop, self._online = loop, online
        self._examples: Table = lake.table(loop.loop, EXAMPLES)
        self._offered = OfferedStates(loop.wait + loop.grace)
        self._spent = Cost(0.0, 0.0)
        self.learner = self._resumed(registry)
        self._offered_rows = self.learner.rows

    def _resumed(self, registry: Registry) -> OnlineLearner:
        """Return the learner of the newest state it offered; the older ones judge what comes."""
        state, until = None, None
        made = [model for model in registry.models() if model.learner == self._online.learner]
        for model in made[-MAX_STATES:]:
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
        """Learn every new commit, yielding its version after each; stop asking to stop."""
        start = self.learner.learned_until
        for version, rows in commits_after(
            self._examples, start, lambda: self.predictions.learned_ids(start)
        ):
            watch = Stopwatch()
            learned = self.learner.learn(version, rows)
            told = learned.predictions
            times: list[datetime] = told.get_column("at").to_list()
            served = pl.Series("predicted", self._offered.predict(times, learned.rows), pl.Float64)
            self.predictions.add(version, told.with_columns(served))
            self._spent = self._spent.plus(watch.read())
            yield version

    def save(self) -> None:
        """Keep the predictions of what was learned so far."""
        self.predictions.save()

    def candidate(self, base_rate: float) -> Trained | None:
        """Return the learner's state as a model; None if it has diverged, it then starts anew."""
        learner, online = self.learner, self._online
        try:
            payload = learner.state().to_bytes()
        except ModelError as error:
            log.warning("%s; it starts anew: %s", error.what, error.hint)
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
            params=settings_of(online),
            software=software("river"),
            cost=self._spent,
        )

    def kept(self, model: ModelVersion, payload: bytes) -> None:
        """Note that *model* is in the registry: from now on it is what would have been served."""
        self._offer(LinearState.from_bytes(payload), model)
        self._offered_rows = self.learner.rows
        self._spent = Cost(0.0, 0.0)
