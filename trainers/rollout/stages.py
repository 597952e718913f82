"""The Delta table ``stages`` of a loop: one row for each change of who decides, by whom, and why.

Delivery: exactly once. The commit of a change moves the number of the newest one by
compare-and-swap, so trainers and people cannot overwrite each other: who loses reads the table
again and decides again. What is live follows from the changes alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Literal

import polars as pl

from tidemill.errors import FencedError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.progress_keys import STAGE_NUMBER
from tidemill.schemas.models.manifest import CANARY, LIVE, SHADOW

STAGES_TABLE = "stages"
STOPPED = "stopped"
"""The stage of a candidate that left its stages without becoming live."""
HELD = "held"
"""The stage of a change that moves no model: a loop was pinned, frozen or released."""
TRAINER = "trainer"
"""Who made a change that no person has made."""

ChangedTo = Literal["shadow", "canary", "live", "stopped", "held"]
_TIME = pl.Datetime("us", "UTC")
_SCHEMA = pl.Schema(
    {
        "number": pl.Int64(),
        "at": _TIME,
        "stage": pl.String(),
        "model": pl.Int64(),
        "version": pl.String(),
        "share": pl.Float64(),
        "sequence": pl.Int64(),
        "rollback": pl.Boolean(),
        "since": _TIME,
        "who": pl.String(),
        "why": pl.String(),
        "metrics": pl.String(),
        "pinned": pl.Boolean(),
        "frozen": pl.Boolean(),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChange:
    """One row of the table: a model came to a stage, or what holds from then on has changed.

    Attributes:
        number: counts the changes of the loop, from 1.
        at: when it was made.
        stage: where the model is from then on; `HELD` if no model moved.
        model: the number of the model in the registry.
        version: its version; ``default`` if the default decides instead of that model.
        share: the share of the decisions that it makes, in the stage canary.
        sequence: that of its manifest; it increases from one change to the next.
        rollback: whether an earlier change of its slot was about a later model.
        since: the time of the newest decision in the lake when it came to the stage. Only later
            ones count for it.
        who: a person or `TRAINER`.
        why: a sentence.
        metrics: those of the model and of what it was compared with.
        pinned: whether only people change stages from then on.
        frozen: whether the loop does not train from then on.
    """

    number: int
    at: datetime
    stage: ChangedTo
    model: int
    version: str
    share: float | None = None
    sequence: int
    rollback: bool = False
    since: datetime | None = None
    who: str = TRAINER
    why: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    pinned: bool = False
    frozen: bool = False

    @property
    def slot(self) -> str | None:
        """The slot of the model topic that it gives its model; None if it gives none."""
        return self.stage if self.stage in (LIVE, CANARY, SHADOW) else None


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds after all *changes* of a loop, oldest first."""

    changes: Sequence[StageChange] = ()

    @property
    def number(self) -> int | None:
        """The number of the newest change; None if there is none."""
        return self.changes[-1].number if self.changes else None

    @property
    def lives(self) -> list[StageChange]:
        """The changes of the live model, oldest first."""
        return [each for each in self.changes if each.stage == LIVE]

    @property
    def live(self) -> StageChange | None:
        """The change by which the live model came to be live; None if none ever was."""
        return next((each for each in reversed(self.changes) if each.stage == LIVE), None)

    @property
    def candidate(self) -> StageChange | None:
        """The change by which the present candidate came to its stage; None if there is none."""
        moved = next((each for each in reversed(self.changes) if each.stage != HELD), None)
        return moved if moved is not None and moved.stage in (SHADOW, CANARY) else None

    @property
    def is_pinned(self) -> bool:
        """Whether only people change stages."""
        return bool(self.changes) and self.changes[-1].pinned

    @property
    def is_frozen(self) -> bool:
        """Whether the loop does not train."""
        return bool(self.changes) and self.changes[-1].frozen

    @property
    def newest_model(self) -> int:
        """The largest number of a model that any change is about; 0 if there is none."""
        return max((each.model for each in self.changes), default=0)

    def next(
        self, stage: ChangedTo, *, at: datetime, model: int, version: str, why: str
    ) -> StageChange:
        """Return the next change, which leaves pinned and frozen as they are."""
        last = self.changes[-1] if self.changes else None
        of_slot = [each.model for each in self.changes if each.slot == stage]
        return StageChange(
            number=last.number + 1 if last else 1,
            at=at,
            stage=stage,
            model=model,
            version=version,
            sequence=last.sequence + 1 if last else 1,
            rollback=stage != HELD and model < max(of_slot, default=0),
            why=why,
            pinned=self.is_pinned,
            frozen=self.is_frozen,
        )


DecideChange = Callable[[Standing], StageChange | None]
"""Returns the change to make where a loop stands; None for no change."""


class Stages:
    """The changes of one loop in the lake. The table is created with the first change."""

    def __init__(self, lake: Lake, loop_name: str) -> None:
        self._lake, self._loop_name = lake, loop_name
        self._table: Table | None = None
        self.standing = Standing()

    def read(self) -> Standing:
        """Read what others have changed since, and return where the loop stands.

        Raises:
            LakeError: the lake cannot be read.
        """
        if self._table is None and self._lake.has_table(self._loop_name, STAGES_TABLE):
            self._table = self._lake.table(self._loop_name, STAGES_TABLE)
        if self._table is None:
            return self.standing
        number = self._table.progress([STAGE_NUMBER])[STAGE_NUMBER]
        if number != self.standing.number:
            rows = self._table.read().sort("number").iter_rows(named=True)
            read = (StageChange(**row | {"metrics": json.loads(row["metrics"])}) for row in rows)
            self.standing = Standing(tuple(read))
        return self.standing

    def change(self, decide: DecideChange) -> StageChange | None:
        """Make the change that *decide* returns, and return it; None if it returns none.

        If another one changes the table meanwhile, *decide* is asked again where the loop stands
        then.

        Raises:
            LakeError: the lake refuses; nothing was changed.
        """
        while True:
            standing = self.read()
            change = decide(standing)
            if change is None:
                return None
            try:
                self._append(change, standing.number)
            except FencedError:
                continue
            self.standing = Standing((*standing.changes, change))
            return change

    def _append(self, change: StageChange, before: int | None) -> None:
        if self._table is None:
            self._table = self._lake.create_table(self._loop_name, STAGES_TABLE, _SCHEMA)
        row = {each.name: getattr(change, each.name) for each in fields(change)}
        row["metrics"] = json.dumps(dict(change.metrics), sort_keys=True)
        frame = pl.DataFrame([row], schema=_SCHEMA)
        swap = CompareAndSwap(STAGE_NUMBER, before, change.number)
        self._table.append(frame, swaps=[swap])
