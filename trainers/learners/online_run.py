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
from tidemill.features.sql.backfills import complete_table
from tidemill.features.sql.judgements import ComparableRows, comparable_rows
from tidemill.features.sql.revisions import newest_rows
from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.models.feature_signature import scored_actions
from tidemill.schemas.models.fit import learned_actions
from tidemill.schemas.models.online_models import online_predictor
from tidemill.trainers.commit_log import NEEDED, commits_after
from tidemill.trainers.learners.batch import Cost, Stopwatch, Trained, software
from tidemill.trainers.learners.online import OnlineLearner, read_state, settings_of
from tidemill.trainers.learners.prequential import MAX_STATES, OfferedStates, Predictions
from tidemill.trainers.registry import ModelVersion, Registry

logger = logging.getLogger(__name__)

BACKFILLED = 0
"""The commit as which the rows of a backfill are learned: that of the empty table, before all."""


class OnlineRun:
    """The online learner of one loop, continued from its newest state in the registry.

    Args:
        loop: whose learner.
        online: which learner.
        lake: where examples are read and predictions are stored.
        registry: where its offered states are.

    Attributes:
        offered: the states that could serve.
    """

    def __init__(self, loop: Loop, online: Online, lake: Lake, registry: Registry) -> None:
        first = lake.definitions(loop.loop)[0].label_digest
        self.predictions = Predictions(
            lake,
            loop.loop,
            online,
            is_weighted=loop.depends_on == "action",
            label="" if loop.label_digest == first else loop.label_digest,
        )
        self._lake = lake
        self._loop, self._online = loop, online
        self._actions = scored_actions(loop)
        self._examples: Table = lake.table(loop.loop, EXAMPLES)
        self.offered = OfferedStates(loop.wait + loop.grace)
        self._spent = Cost(0.0, 0.0)
        self.learner = self._resumed(registry)
        self._offered_rows = self.learner.rows

    def _resumed(self, registry: Registry) -> OnlineLearner:
        """Return the learner of its newest offered state; older states predict later rows too."""
        payload, newest = b"", None
        made = [model for model in registry.models() if model.learner == self._online.learner]
        for model in made[-MAX_STATES:]:
            if model.params != settings_of(
                self._loop, self._online
            ):  # of other rates, or of another lake
                continue
            if model.label_digest not in (None, self._loop.label_digest):
                continue
            payload, newest = registry.payload(model), model
            self._offer(payload, model)
        if newest is None:
            return OnlineLearner(self._loop, self._online)
        state = read_state(newest.learner, payload, registry.state(newest))
        learner = OnlineLearner(self._loop, self._online, state)
        learner.until = newest.until if learner.rows else None
        return learner

    def _offer(self, payload: bytes, model: ModelVersion) -> None:
        if model.until is not None:
            learned = learned_actions(model.signature, self._loop)
            predictor = online_predictor(model.learner, payload, model.signature)
            self.offered.add(model.until, predictor, learned)

    @property
    def fresh_rows(self) -> int:
        """How many rows were learned since the last offer."""
        return self.learner.rows - self._offered_rows

    def follow(self) -> Iterator[int]:
        """Learn each new commit when asked for the next, and yield its version.

        Rows of another label are passed over. Before the first commit come the rows of the backfill
        that made their labels anew, if it is complete when the learner begins.
        """
        start = self.learner.learned_until
        for version, rows in self._new_rows(start):
            watch = Stopwatch()
            learned = self.learner.learn(version, rows)
            predictions = learned.predictions
            times: list[datetime] = predictions.get_column("at").to_list()
            served = self._served(times, learned.rows)
            self.predictions.add(version, predictions.with_columns(*served))
            self._spent = self._spent.plus(watch.read())
            yield version

    def _new_rows(self, start: int) -> Iterator[tuple[int, pl.DataFrame]]:
        commits = commits_after(self._examples, start, lambda: self.predictions.learned_ids(start))
        comparable: ComparableRows | None = None
        for version, rows in commits:
            if comparable is None:  # read once there is a commit, and before the log goes on
                comparable = comparable_rows(self._lake, self._loop)
                if start < 0 and comparable.backfill is not None:
                    yield BACKFILLED, self._backfilled(comparable, comparable.backfill)
            yield version, rows.filter(comparable.expr())

    def _backfilled(self, comparable: ComparableRows, name: str) -> pl.DataFrame:
        """Return the rows of backfill *name* that the live table has under another label."""
        table = complete_table(self._lake, self._loop.loop, name)
        needed = [column for column in NEEDED if column in table.schema]
        return newest_rows(table.scan()).filter(comparable.other_expr()).select(needed).collect()

    def _served(
        self, times: Sequence[datetime], rows: Sequence[Mapping[str, object]]
    ) -> tuple[pl.Series, pl.Series, pl.Expr]:
        """Return what would have been served for *rows*, and the same for each scored action."""
        predicted = pl.Series("predicted", self.offered.predict(times, rows), pl.Float64)
        each = [
            [
                self.offered.score_action(at, row, action)
                for at, row in zip(times, rows, strict=True)
            ]
            for action in self._actions
        ]
        found = [None if None in scores else list(scores) for scores in zip(*each, strict=True)]
        scores = pl.Series("scores", found or [None] * len(rows), pl.List(pl.Float64))
        actions = pl.lit(self._actions or None, dtype=pl.List(pl.String)).alias("actions")
        return predicted, scores, actions

    def save(self) -> None:
        """Store the predictions of the rows learned so far."""
        self.predictions.save()

    def candidate(self, base_rate: float) -> Trained | None:
        """Return the learner's state as a model; None if it has diverged and starts from zero."""
        learner, online = self.learner, self._online
        try:
            payload, state = learner.payload(), learner.saved()
        except ModelError as error:
            logger.warning("%s; it starts from zero: %s", error.what, error.hint)
            learner.restart()
            self._offered_rows = 0
            return None
        return Trained(
            learner=online.learner,
            payload=payload,
            state=state,
            signature=learner.fitted_signature(),
            snapshot=learner.learned_until,
            rows=learner.rows,
            base_rate=base_rate,
            seed=online.seed if "seed" in settings_of(self._loop, online) else 0,
            params=settings_of(self._loop, online),
            software=software("river"),
            cost=self._spent,
        )

    def registered(self, model: ModelVersion, payload: bytes) -> None:
        """Let *model*, which is in the registry, predict the rows that follow."""
        self._offer(payload, model)
        self._offered_rows = self.learner.rows
        self._spent = Cost(0.0, 0.0)
