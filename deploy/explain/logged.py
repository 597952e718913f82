"""A decision as the lake has it: what was known, and what was answered."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.decision.items import RequestItems
from tidemill.serving.policies.choice import Action, Features


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenAnswer:
    """What was answered, with how sure, and by what.

    Attributes:
        action, score, propensity, propensities, policy_action: see `DecisionResult`. Where the
            request brought items, *propensities* has one for each of them that was logged.
        source: ``model``, ``default``, ``explore``, ``fallback``, or that of a history.
        model_version: the model that scored; None if none did.
        positions: where each of these items was shown; None if the request brought none.
    """

    action: Action
    score: float | None
    propensity: float | None
    propensities: Sequence[float | None] | None = None
    policy_action: Action | None = None
    source: str
    model_version: str | None
    positions: list[int | None] | None = None

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        told = asdict(self)
        if self.positions is None:
            del told["positions"]
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtItem:
    """One item of a request, as it was logged: its *features* by name, in the loop's order."""

    id: str
    features: dict[str, object]
    propensity: float | None
    position: int | None


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
        stage: that of a loop with a rollout, say ``control``; else None.
        rule_version: the version of the rules that were in force; None if there were none.
        items: what the request brought to choose among, as far as it was logged, in its order.
    """

    id: str
    at: datetime
    entity: str | None
    loop: Loop
    features: dict[str, object]
    baseline: Action | None
    answer: GivenAnswer
    verdict: str | None
    stage: str | None = None
    rule_version: int | None = None
    items: tuple[BroughtItem, ...] = ()

    @property
    def default(self) -> Action:
        """The default of this decision."""
        if self.baseline is not None:
            return self.baseline
        if not self.items:
            return self.loop.decision.default
        ids = [item.id for item in self.items]
        return ids if self.loop.decision.type == "ranking" else ids[0]

    @property
    def request_items(self) -> RequestItems:
        """The items as the decider reads them."""
        rows = [tuple(item.features.values()) for item in self.items]
        return RequestItems([item.id for item in self.items], rows, self.default)

    @property
    def has_all(self) -> bool:
        """Whether the log has all that the policy chose among."""
        items = self.loop.decision.items
        return items is None or (items.log == "all" and bool(self.items))

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
    items = _items(loop, row.get("items"))
    propensities = row.get("propensities")
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
            propensities=[item.propensity for item in items] if items else propensities,
            policy_action=row.get("policy_action"),
            source=row["source"],
            model_version=row["model_version"],
            positions=[item.position for item in items] if items else None,
        ),
        verdict=row["verdict"],
        stage=row.get("stage"),
        rule_version=row.get("rule_version"),
        items=items,
    )


def _items(loop: Loop, logged: Sequence[Mapping[str, Any]] | None) -> tuple[BroughtItem, ...]:
    if loop.decision.items is None or logged is None:
        return ()
    names = list(loop.decision.items.features)
    return tuple(
        BroughtItem(
            id=each["id"],
            features={name: each["features"].get(name) for name in names},
            propensity=each["propensity"],
            position=each["position"],
        )
        for each in logged
    )
