"""What the tests of a rollout share: a small loop, its models, and a trainer in a few lines."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from tests.trainers.cycles import KEY

from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, fitted, layouts, undated
from tidemill.schemas.loop.definition import FieldType, Loop
from tidemill.schemas.models.assembler import Delivery, ModelAssembler
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.manifest import ModelManifest, payload_digest
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.trainers.publisher import MemoryModelTopic, ModelTopic, Publisher
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rollout.by_hand import ByHand
from tidemill.trainers.rollout.slots import SlotPublisher
from tidemill.trainers.rollout.staging import Staging

NOW = datetime(2026, 2, 1, tzinfo=UTC)
START = datetime(2026, 1, 1, tzinfo=UTC)
SIGNATURE = FeatureSignature((SignatureField("hour", FieldType.INT),))
STAGED: dict[str, object] = {
    "stages": ["shadow", "canary", "live"],
    "shadow": {"rows": 20},
    "canary": {"share": 0.2, "rows": 400},
}


def offer(**changes: object) -> Loop:
    """Return a loop whose label does not depend on the action."""
    values: dict[str, object] = {
        "loop": "offer",
        "decision": {"type": "bool", "default": False},
        "features": {"hour": "int"},
        "feedback": {"click": {"within": "30m"}},
        "label": {"sql": "count(*) > 0"},
        "policy": {"kind": "threshold"},
        "gate": {"min_rows": 100},
        "partitions": 1,
    }
    return Loop.model_validate(values | changes)


def version(number: int) -> str:
    """Return what a model is called."""
    return f"lightgbm-{number}"


class Rig:
    """A trainer of a loop with rollout, as far as stages go, and a person beside it.

    *models* are added as they are made: each promoted by the gate against what is live then.
    """

    def __init__(self, lake: Lake, loop: Loop, topic: ModelTopic | None = None) -> None:
        lake.create(loop)
        self.lake, self.loop = lake, loop
        self.topic = topic or MemoryModelTopic()
        self.start()

    def start(self) -> None:
        """Start the trainer, as after a crash."""
        self.registry = Registry(self.lake, self.loop.loop)
        self.staging = Staging(
            self.loop, self.lake, self.registry, clock=lambda: NOW, time_share=1.0
        )
        publisher = Publisher(self.topic, self.loop.loop, KEY)
        self.slots = SlotPublisher(self.registry, publisher)

    def settle(self) -> None:
        """Do what each cycle begins with."""
        self.staging.enter()
        self.slots.publish()

    def look(self) -> None:
        """Look at the candidate, and publish what follows."""
        self.staging.advance(force=True)
        self.settle()

    def made(self, *, payload: bytes | None = None, label_digest: str | None = None) -> int:
        """Register a model that the gate has promoted; return its number."""
        number = self.registry.next_number()
        payload = payload or f"tree {number}".encode()
        is_live = self.staging.goes_live_at_once
        model = ModelVersion(
            number=number,
            version=version(number),
            at=NOW + timedelta(minutes=number),
            learner="lightgbm",
            loop_version=1,
            policy_version=1,
            label_type="bool",
            promoted=True,
            sequence=self.registry.next_sequence() if is_live else 0,
            reason="promoted: it is good",
            metrics={"log_loss": 0.5},
            snapshot=3,
            labels=1_200,
            until=None,
            later_from=None,
            trained_on_rows=1_000,
            base_rate=0.2,
            seed=7,
            replaces=self.staging.replaced(),
            wall_s=1.5,
            cpu_s=1.2,
            digest=payload_digest(payload),
            features=SIGNATURE.to_json(),
            label_digest=label_digest,
        )
        self.registry.add(model, payload)
        return number

    def person(self) -> "Person":
        """Return somebody who types commands."""
        return Person(self)

    @property
    def live(self) -> str | None:
        """The version that the records say is live."""
        change = Registry(self.lake, self.loop.loop).stages.standing.live
        return change.version if change else None

    def slot(self, slot: str = "live") -> ModelManifest | None:
        """Return what a worker that starts now finds in a slot."""
        return newest(self.topic.read().items(), slot)

    def decide(
        self,
        stage: str | None,
        earned: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
        *,
        model: str | None,
        fallbacks: int = 0,
        first: int = 0,
    ) -> None:
        """Commit decisions of a stage with their examples; the action is right where *earned*."""
        rows = decided(stage, earned, model=model, fallbacks=fallbacks, first=first)
        tables = layouts(self.loop)
        decisions = rows.rename({"decision_id": "id"}).select(
            pl.col(name) for name in tables[DECISIONS] if name in {*rows.columns, "id"}
        )
        examples = rows.select(name for name in tables[EXAMPLES] if name in rows.columns)
        for name, frame in ((DECISIONS, decisions), (EXAMPLES, examples)):
            table = self.lake.table(self.loop.loop, name)
            before = table.progress(["frontier/0"])["frontier/0"]
            swap = CompareAndSwap("frontier/0", before, (before or 0) + 1)
            table.append(fitted(frame, undated(tables[name])), swaps=[swap])


def decided(
    stage: str | None,
    earned: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
    *,
    model: str | None,
    fallbacks: int,
    first: int,
) -> pl.DataFrame:
    """Return decisions of a stage, one a second from *first* on; all of them act."""
    count = len(earned)
    numbers = range(first, first + count)
    failed = [number < fallbacks for number in range(count)]
    return pl.DataFrame(
        {
            "decision_id": [f"{stage}-{number}" for number in numbers],
            "at": [START + timedelta(seconds=number) for number in numbers],
            "entity": [f"{stage}-{number % 97}" for number in numbers],
            "features": [{"hour": number % 24} for number in numbers],
            "action": [True] * count,
            "propensity": [1.0] * count,
            "source": ["fallback" if each else "model" for each in failed],
            "model_version": [None if each else model for each in failed],
            "policy_version": [1] * count,
            "loop_version": [1] * count,
            "stage": [stage] * count,
            "state": ["labeled"] * count,
            "label": earned.astype(float),
            "topic": ["offer.decisions"] * count,
            "partition": [0] * count,
            "offset": list(numbers),
        },
        schema_overrides={
            "features": pl.Struct({"hour": pl.Int64}),
            "model_version": pl.String,
            "stage": pl.String,
            "policy_version": pl.Int32,
            "loop_version": pl.Int32,
            "partition": pl.Int32,
            "at": pl.Datetime("us", "UTC"),
        },
    )


class Person:
    """Somebody who types a command: it records, then it publishes."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def does(self, change: Callable[[ByHand], object]) -> None:
        """Type a command."""
        rig = self._rig
        hand = ByHand(rig.loop, rig.lake, who="ada@desk", clock=lambda: NOW)
        change(hand)
        publisher = Publisher(rig.topic, rig.loop.loop, KEY, sweeps=False)
        SlotPublisher(hand.registry, publisher).publish()


def newest(records: object, slot: str) -> ModelManifest | None:
    """Return the last manifest that a worker takes from *records* in a slot."""
    assembler = ModelAssembler(TrustedKeys.of([KEY.public]), slots=[slot])
    found: ModelManifest | None = None
    for key, value in records:  # type: ignore[attr-defined]  # pairs
        out = assembler.feed(key, value)
        found = out.manifest if isinstance(out, Delivery) else found
    assert assembler.pending() == []
    return found
