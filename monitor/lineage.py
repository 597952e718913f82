"""Which models used an example, and how; read from the table `models` of the registry.

A model names the version of the examples it was trained on. If the lake still has that version, the
example is looked up in it; if not, the time of the newest decision the model used decides.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal

import polars as pl

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import EXAMPLES, example_key
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import DEFAULT

MODELS = "models"
_BATCH = ("lightgbm", "posterior")
_LISTED = ("version", "at", "learner", "promoted", "reason", "snapshot", "until", "later_from")

Role = Literal["learned", "judged by", "left out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """One version of the registry; *at* is the time it was made, *reason* the gate's sentence."""

    version: str
    at: datetime
    learner: str
    promoted: bool
    reason: str
    snapshot: int
    until: datetime | None
    later_from: datetime | None

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How a model used an example.

    Attributes:
        role: ``learned``; ``judged by``, for the newest rows of a batch model; ``left out``, for
            rows between the two, whose label was not known yet at the time of the later ones.
        revision: the revision of the example that the model used; None if not known.
        is_sure: whether the example was found in the version the model was trained on.
    """

    model: ListedModel
    role: Role
    revision: int | None
    is_sure: bool

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        use = {"role": self.role, "revision": self.revision, "sure": self.is_sure}
        return {**self.model.to_json(), **use}


def read_models(lake: Lake, loop: Loop) -> list[ListedModel]:
    """Return all models of *loop*, oldest first.

    Raises:
        LakeError: the lake cannot be read.
    """
    if not lake.has_table(loop.loop, MODELS):
        return []
    rows = lake.table(loop.loop, MODELS).read([*_LISTED, "number"]).sort("number").drop("number")
    return [ListedModel(**row) for row in rows.iter_rows(named=True)]


def uses(
    lake: Lake, loop: Loop, models: list[ListedModel], *, partition: int, offset: int, at: datetime
) -> list[Use]:
    """Return how each of *models* used the example of a decision; others are left out."""
    found = []
    examples = lake.table(loop.loop, EXAMPLES)
    for model in models:
        if model.learner == DEFAULT:
            continue  # the default decides: no model
        if model.until is not None and at > model.until:
            continue  # later than the newest decision the model used
        seen = _as_of(examples, model.snapshot, partition, offset, at)
        if seen is None:
            role = _role(model, at, loop.wait + loop.grace)
            found.append(Use(model=model, role=role, revision=None, is_sure=False))
        elif seen.height:
            role = _role(model, at, loop.wait + loop.grace)
            revision = max(seen["revision"].to_list())
            found.append(Use(model=model, role=role, revision=revision, is_sure=True))
    return found


def _as_of(
    examples: Table, version: int, partition: int, offset: int, at: datetime
) -> pl.DataFrame | None:
    """Return what had a label of a decision in *version*; None if the version is gone.

    It is one row; where decisions have items, one for each with a label.
    """
    here = (
        (pl.col("event_date") == at.date())
        & (pl.col("at") == at)
        & (pl.col("partition") == partition)
        & (pl.col("offset") == offset)
    )
    try:
        rows = examples.read(where=here, version=version)
    except LakeError:
        return None
    if "revision" not in rows.columns:
        rows = rows.with_columns(revision=pl.lit(0))
    key = example_key(rows.columns)
    newest = rows.with_columns(pl.col("revision").fill_null(0)).sort("revision", descending=True)
    return newest.unique(key, keep="first", maintain_order=True).drop_nulls("label")


def _role(model: ListedModel, at: datetime, maturity: timedelta) -> Role:
    if model.learner not in _BATCH or model.later_from is None or at < model.later_from - maturity:
        return "learned"
    return "judged by" if at >= model.later_from else "left out"
