"""The model registry: every version of a loop, promoted or not, with its origin and its cost.

The registry is the Delta table ``models`` beside the examples. A row holds a model with its
payload, so the model topic can be restored from the lake alone.

Delivery: exactly once. The commit that adds a row also moves the number of the newest version by
compare-and-swap, so a second trainer of the same loop is fenced. What is live follows from the
table ``stages`` (`rollout/stages.py`); while a loop has no row there, from the column ``promoted``.

Longer than 300 lines because a row has thirty columns, which are named once for each use.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import polars as pl

from tidemill.errors import ModelError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.progress_keys import MODEL_NUMBER
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.schemas.models.fit import check_fit
from tidemill.schemas.models.manifest import (
    DEFAULT,
    DEFAULT_PAYLOAD,
    INLINE_BYTES,
    LIVE,
    ModelManifest,
    chunk_count,
    payload_digest,
)
from tidemill.trainers.rollout.stages import StageChange, Stages

MODELS = "models"
LOOK = "look"  # the metric that says which candidate of a series it was
ONLINE = "online"  # the slot of the newest state of an online learner, promoted or not
_TIME = pl.Datetime("us", "UTC")
_SCHEMA = pl.Schema(
    {
        "number": pl.Int64(),
        "version": pl.String(),
        "at": _TIME,
        "learner": pl.String(),
        "loop_version": pl.Int32(),
        "policy_version": pl.Int32(),
        "label_type": pl.String(),
        "promoted": pl.Boolean(),
        "sequence": pl.Int64(),
        "reason": pl.String(),
        "metrics": pl.String(),
        "snapshot": pl.Int64(),
        "labels": pl.Int64(),
        "revised": pl.Int64(),
        "until": _TIME,
        "later_from": _TIME,
        "trained_on_rows": pl.Int64(),
        "base_rate": pl.Float64(),
        "seed": pl.Int64(),
        "params": pl.String(),
        "software": pl.String(),
        "replaces": pl.String(),
        "wall_s": pl.Float64(),
        "cpu_s": pl.Float64(),
        "digest": pl.String(),
        "features": pl.String(),
        "label_digest": pl.String(),
        "sources": pl.String(),
        "payload": pl.Binary(),
        "state": pl.Binary(),
        "event_date": pl.Date(),
    }
)
_ROW = {name: kind for name, kind in _SCHEMA.items() if name != "event_date"}
_LISTED = [name for name in _SCHEMA if name not in ("payload", "state", "event_date")]
_JSON = ("metrics", "params", "software", "sources")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One row of the registry, without the payload.

    Attributes:
        number: counts the models of the loop, over all learners, from 1.
        version: learner and number.
        at: when it was made.
        promoted: whether the gate promoted it, or it stands for the default, which took over.
        sequence: that of its manifest if it was to be live at once; 0 for a model that was not
            promoted, or that has to go through stages first.
        reason: the gate's sentence.
        snapshot: version of the examples table it was trained on.
        labels: labelled rows of that snapshot, including those it was judged by.
        revised: how many of those labels were corrected after the close; the correction counts.
        until: time of the newest decision of that snapshot.
        later_from: time of the first decision it was judged by; it may have learned earlier ones.
        trained_on_rows: rows it learned.
        replaces: the live version when it was judged; empty if there was none.
        wall_s: seconds of wall clock that training took.
        cpu_s: CPU seconds of all cores that training took.
        digest: SHA-256 of the payload.
        features: its feature signature as JSON.
        label_digest: `Loop.label_digest` of the label it learned; None in earlier releases.
        sources: how many of its labels each version of the loop judged, or which backfill made
            them; empty in earlier releases.
    """

    number: int
    version: str
    at: datetime
    learner: str
    loop_version: int
    policy_version: int
    label_type: str
    promoted: bool
    sequence: int
    reason: str
    metrics: Mapping[str, float]
    snapshot: int
    labels: int
    until: datetime | None
    later_from: datetime | None
    trained_on_rows: int
    base_rate: float
    seed: int
    params: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    replaces: str = ""
    wall_s: float
    cpu_s: float
    digest: str
    features: str
    revised: int = 0
    label_digest: str | None = None
    sources: Mapping[str, int] = field(default_factory=dict)

    @property
    def signature(self) -> FeatureSignature:
        """The features the model reads."""
        return FeatureSignature.from_json(self.features)

    def check_fit(self, loop: Loop) -> None:
        """Refuse the model if it cannot serve *loop*; see `schemas/models/fit.py`.

        Raises:
            ModelError: with the reason.
        """
        check_fit(
            loop,
            self.version,
            self.signature,
            learner=self.learner,
            label_type=self.label_type,
            label_digest=self.label_digest,
        )


class Registry:
    """The models of one loop in the lake."""

    def __init__(self, lake: Lake, loop_name: str) -> None:
        self._table = lake.create_table(loop_name, MODELS, _SCHEMA)
        self._loop_name = loop_name
        self._models = self._read()
        self.stages = Stages(lake, loop_name)
        self.stages.read()

    def models(self) -> list[ModelVersion]:
        """Return all versions, oldest first."""
        return list(self._models)

    def live(self) -> ModelVersion | None:
        """Return the version that is live, which may be the default; None if none ever was."""
        change = self.stages.standing.live
        return self.promoted_last() if change is None else self.of(change)

    def promoted_last(self) -> ModelVersion | None:
        """Return the version that was promoted last; it is live where no change says what is."""
        return max(
            (one for one in self._models if one.promoted and one.sequence),
            key=lambda one: one.sequence,
            default=None,
        )

    def of(self, change: StageChange) -> ModelVersion:
        """Return the version that *change* is about, with its sequence.

        Raises:
            ModelError: the registry has no such version.
        """
        model = self.numbered(change.model)
        if change.version == DEFAULT:
            return replace(
                model,
                version=DEFAULT,
                at=change.at,
                learner=DEFAULT,
                sequence=change.sequence,
                reason=change.why,
                until=change.since,
                metrics={},
                digest=payload_digest(DEFAULT_PAYLOAD),
            )
        return replace(model, sequence=change.sequence)

    def numbered(self, number: int) -> ModelVersion:
        """Return the version with this number, also one that a trainer has added meanwhile.

        Raises:
            ModelError: the registry has no such version.
        """
        found = next((one for one in self._models if one.number == number), None)
        if found is None:  # not kept: a trainer that another one has overtaken must be fenced
            found = next((one for one in self._read() if one.number == number), None)
        if found is None:
            raise ModelError(
                f"{self._loop_name} has a change of stages for model {number}, which is unknown",
                hint=f"restore the lost models: tidemill model restore {self._loop_name}",
            )
        return found

    def model(self) -> ModelVersion | None:
        """Return the model that decides; None if the default does, as before the first one."""
        live = self.live()
        return None if live is None or live.learner == DEFAULT else live

    def taken_back_until(self) -> datetime | None:
        """Return the time of the newest decision known when a model was taken back.

        None if a model decides, or none ever did.
        """
        live = self.live()
        return live.until if live is not None and live.learner == DEFAULT else None

    def looks(self) -> int:
        """Return how many candidates were judged by rewards since the last change of who decides.

        A candidate for which there was too little evidence was not judged.
        """
        live = self.live()
        since = live.number if live else 0
        return sum(one.number > since and LOOK in one.metrics for one in self._models)

    def newest(self, learner: str) -> ModelVersion | None:
        """Return the newest version of *learner*, promoted or not."""
        return next((one for one in reversed(self._models) if one.learner == learner), None)

    def next_number(self) -> int:
        """Return the number the next version will have."""
        return self._models[-1].number + 1 if self._models else 1

    def next_sequence(self) -> int:
        """Return the sequence the next version will have if it is live at once."""
        changes = self.stages.standing.changes
        if changes:
            return changes[-1].sequence + 1
        live = self.promoted_last()
        return live.sequence + 1 if live else 1

    def payload(self, model: ModelVersion) -> bytes:
        """Return the bytes of *model*.

        Raises:
            LakeError: the lake cannot be read.
        """
        if model.version == DEFAULT:
            return DEFAULT_PAYLOAD
        found = self._table.read(["payload"], pl.col("number") == model.number)
        payload: bytes = found.item()
        return payload

    def state(self, model: ModelVersion) -> bytes | None:
        """Return what the learner of *model* continues from; None if the payload is all there is.

        Raises:
            LakeError: the lake cannot be read.
        """
        found = self._table.read(["state"], pl.col("number") == model.number)
        state: bytes | None = found.item() if found.height else None
        return state

    def add(self, model: ModelVersion, payload: bytes, state: bytes | None = None) -> None:
        """Add *model*, which must have the next number, with what its learner continues from.

        Raises:
            FencedError: another trainer has added a version meanwhile.
            LakeError: the lake refuses; nothing was added.
        """
        if payload_digest(payload) != model.digest:
            raise ValueError(f"the digest of {model.version} is not that of its payload")
        before = self._models[-1].number if self._models else None
        row = {name: getattr(model, name) for name in _LISTED}
        row |= {name: json.dumps(dict(row[name]), sort_keys=True) for name in _JSON}
        frame = pl.DataFrame([row | {"payload": payload, "state": state}], schema=_ROW)
        self._table.append(frame, swaps=[CompareAndSwap(MODEL_NUMBER, before, model.number)])
        self._models.append(model)

    def _read(self) -> list[ModelVersion]:
        table = self._table.read(_LISTED).with_columns(
            pl.col("revised").fill_null(0), pl.col("sources").fill_null("{}")
        )
        rows = table.sort("number").iter_rows(named=True)
        return [
            ModelVersion(**row | {name: json.loads(row[name]) for name in _JSON}) for row in rows
        ]

    def manifest(self, model: ModelVersion, payload_bytes: int, slot: str) -> ModelManifest:
        """Return the manifest of *model* for *slot*; the same value each time."""
        return ModelManifest(
            loop=self._loop_name,
            loop_version=model.loop_version,
            slot=slot,
            version=model.version,
            number=model.number,
            sequence=model.sequence if slot == LIVE else model.number,
            learner=model.learner,
            label_type=model.label_type,
            digest=model.digest,
            payload_bytes=payload_bytes,
            chunks=0 if payload_bytes <= INLINE_BYTES else chunk_count(payload_bytes),
            features=model.features,
            features_digest=model.signature.digest,
            policy_version=model.policy_version,
            snapshot=model.snapshot,
            trained_on_rows=model.trained_on_rows,
            base_rate=model.base_rate,
            metrics=model.metrics,
            created_at=model.at,
            label_digest=model.label_digest,
        )


def default_version(
    loop: Loop,
    registry: Registry,
    *,
    at: datetime,
    reason: str,
    metrics: Mapping[str, float],
    snapshot: int,
    until: datetime | None,
) -> ModelVersion:
    """Return the version by which the default of *loop* decides instead of the live model."""
    live = registry.live()
    return ModelVersion(
        number=registry.next_number(),
        version=f"{DEFAULT}-{registry.next_number()}",
        at=at,
        learner=DEFAULT,
        loop_version=loop.version,
        policy_version=loop.policy.version,
        label_type=loop.label.type,
        promoted=True,
        sequence=registry.next_sequence(),
        reason=reason,
        metrics=metrics,
        snapshot=snapshot,
        labels=live.labels if live else 0,
        until=until,
        later_from=until,
        trained_on_rows=0,
        base_rate=0.0,
        seed=0,
        replaces=live.version if live else "",
        wall_s=0.0,
        cpu_s=0.0,
        digest=payload_digest(DEFAULT_PAYLOAD),
        features=FeatureSignature.of_loop(loop).to_json(),
    )
