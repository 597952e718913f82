"""A decision as the lake has it: what was known, and what was answered."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.policies.choice import Action, Features


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenAnswer:
    """What was answered, with how sure, and by what.

    Attributes:
        action, score, propensity, propensities, policy_action: see `DecisionResult`.
        source: ``model``, ``default``, ``explore``, ``fallback``, or that of a history.
        model_version: the model that scored; None if none did.
    """

    action: Action
    score: float | None
    propensity: float | None
    propensities: list[float] | None = None
    policy_action: Action | None = None
    source: str
    model_version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedDecision:
    """One row of the table ``decisions``.

    Attributes:
        id, at, entity: which decision.
        loop: the definition that it was made with.
        features: all of them by the names of *loop*, in its order.
        baseline: what the request said the service would have done; None if it did not.
        answer: what was logged.
        verdict: why it does not count, say ``late``; None if it does.
    """

    id: str
    at: datetime
    entity: str | None
    loop: Loop
    features: dict[str, object]
    baseline: Action | None
    answer: GivenAnswer
    verdict: str | None

    @property
    def default(self) -> Action:
        """The default of this decision."""
        return self.loop.decision.default if self.baseline is None else self.baseline

    @property
    def values(self) -> Features:
        """The features as policies and predictors read them."""
        return tuple(self.features.values())


def read_logged(lake: Lake, loop_name: str, id_: str) -> LoggedDecision | None:
    """Return the decision *id_*; None if the lake has none.

    Of several records with the id the last that counts is taken, or the last if none does.

    Raises:
        LakeError: the lake cannot be read, or has no such loop.
    """
    found = lake.table(loop_name, DECISIONS).read(where=pl.col("id") == id_)
    if not found.height:
        return None
    ordered = found.sort(pl.col("verdict").is_null(), "at", "partition", "offset")
    row = ordered.row(-1, named=True)
    loops = {loop.version: loop for loop in lake.definitions(loop_name)}
    loop = loops.get(row["loop_version"])
    if loop is None:
        raise LakeError(
            f"the lake has no version {row['loop_version']} of {loop_name}, which made {id_}",
            hint="publish that version again, and start a worker for it",
        )
    return LoggedDecision(
        id=id_,
        at=row["at"],
        entity=row["entity"],
        loop=loop,
        features={name: row["features"].get(name) for name in loop.features},
        baseline=row.get("baseline"),
        answer=GivenAnswer(
            action=row["action"],
            score=row["score"],
            propensity=row["propensity"],
            propensities=row.get("propensities"),
            policy_action=row.get("policy_action"),
            source=row["source"],
            model_version=row["model_version"],
        ),
        verdict=row["verdict"],
    )
