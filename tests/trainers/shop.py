"""A shop whose requests bring the items to choose among, with the decider of the product.

Its customers click items by their segment and by the kind of the item, more at the first positions
than at later ones. `Shop.fill` writes decisions and examples into a lake as the join would.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from tidemill.features.estimates.intervals import Floats
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, fitted, layouts, undated
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.schemas.models.fit import taken_names
from tidemill.schemas.published import register
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.model.predictor import LightGbmModel
from tidemill.serving.policies.choice import LiveModel
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.registry import ModelVersion

START = datetime(2026, 1, 1, tzinfo=UTC)
SEGMENTS, KINDS = 3, 6
CLICKS = np.full((SEGMENTS, KINDS), 0.05)
CLICKS[np.arange(SEGMENTS), [0, 1, 2]] = 0.5
CLICKS[np.arange(SEGMENTS), [3, 4, 5]] = 0.3
"""The chance of a click by segment and kind, at the first position."""


def shop_loop(kind: str = "choice", **changes: object) -> Loop:
    """Return a loop with items; *changes* replace its parts."""
    items = {"features": {"kind": "category", "price": "float"}, "max": 20}
    parts: dict[str, object] = {
        "loop": "shop",
        "decision": {"type": kind, "items": items},
        "features": {"segment": "category"},
        "feedback": {"clicked": {"within": "10s"}},
        "label": {"sql": "count(*) > 0"},
        "grace": "1s",
        "partitions": 1,
        "policy": {"kind": "greedy", "epsilon": 0.3},
        "models": {
            "batch": {
                "min_labels": 1_000,
                "retrain": {"new_labels": 1_000},
                "rounds": 30,
                "params": {"min_data_in_leaf": 20},
            }
        },
        "gate": {"min_rows": 100},
    }
    return Loop.model_validate(parts | changes)


class Shop:
    """The requests of one loop, its answers and what came of them.

    Args:
        loop: one of `shop_loop`.
        seed: of all that is random in the world.
        items: how many a request brings.
        clicks: the chance of a click by segment and kind, at the first position.
        decay: what is left of that chance from one position to the next.
        baseline: what the service would have done, in each request.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        seed: int = 1,
        items: int = 5,
        clicks: Floats = CLICKS,
        decay: float = 0.5,
        baseline: str | list[str] | None = None,
    ) -> None:
        self.loop, self.clicks, self.items = loop, clicks, items
        self.random = np.random.default_rng(seed)
        self.decided = 0
        self._decay, self._baseline = decay, baseline
        self._log, store = MemoryEventLog(), MemorySchemaStore()
        register(loop, store)
        self.decider = Decider(loop, store=store, log=self._log)
        self._decoder = EventDecoder(loop, DECISIONS, store)

    def request(self) -> tuple[dict[str, object], list[dict[str, object]]]:
        """Return the features of the next customer, and items of random kinds."""
        segment = int(self.random.integers(0, self.clicks.shape[0]))
        kinds = self.random.integers(0, self.clicks.shape[1], self.items)
        items: list[dict[str, object]] = [
            {"id": f"i{place}", "features": {"kind": f"k{kind}", "price": float(kind % 2)}}
            for place, kind in enumerate(kinds.tolist())
        ]
        return {"segment": f"s{segment}"}, items

    def decide(self, count: int) -> pl.DataFrame:
        """Return *count* decisions as a streams worker decodes them."""
        check = self.decider.decisions.check
        for number in range(self.decided, self.decided + count):
            features, items = self.request()
            at = START + timedelta(seconds=number)
            self.decider.decide(
                check(features, None, f"d{number:07}", at, baseline=self._baseline, items=items)
            )
        self.decided += count
        values = [event.value for event in self._log.events]
        self._log.events.clear()
        return self._decoder.decode(values).frame

    def earned(self, shown: pl.DataFrame) -> Floats:
        """Return the chance of a click of each shown item."""
        segment = shown["features"].struct.field("segment").str.slice(1).cast(pl.Int64).to_numpy()
        kind = shown["item_features"].struct.field("kind").str.slice(1).cast(pl.Int64).to_numpy()
        return np.asarray(self.clicks[segment, kind] * self._decay ** shown["position"].to_numpy())

    def shown(self, decisions: pl.DataFrame) -> pl.DataFrame:
        """Return the examples of *decisions*: a row for each item that was shown."""
        item = pl.col("items").struct
        rows = (
            decisions.explode("items")
            .filter(item.field("position").is_not_null())
            .with_columns(
                item.field("id").alias("item"),
                item.field("position"),
                item.field("propensity").alias("item_propensity"),
                item.field("features").alias("item_features"),
            )
            .drop("items")
            .rename({"id": "decision_id"})
        )
        label = self.random.random(len(rows)) < self.earned(rows)
        state = pl.Series("state", np.where(label, "labeled", "no_feedback"))
        return rows.with_columns(pl.Series("label", label.astype(float)), state)

    def fill(self, lake: Lake, count: int) -> pl.DataFrame:
        """Decide *count* times and commit what the join would; return the examples."""
        number = pl.int_range(self.decided, self.decided + count, dtype=pl.Int64, eager=True)
        decisions = self.decide(count)
        decisions = decisions.drop("row").with_columns(
            number.alias("offset"),
            pl.lit(0, dtype=pl.Int32).alias("partition"),
            pl.lit("shop.decisions").alias("topic"),
        )
        shown, tables = self.shown(decisions), layouts(self.loop)
        for name, rows in ((DECISIONS, decisions), (EXAMPLES, shown)):
            table, done = lake.table("shop", name), "frontier/0"
            before = table.progress([done])[done]
            swap = CompareAndSwap(done, before, self.decided)
            table.append(fitted(rows, undated(tables[name])), swaps=[swap])
        return shown

    def serve(self, model: ModelVersion | None, cycle: TrainingCycle) -> None:
        """Let *model* decide from now on; the default if it is None."""
        if model is None:
            self.decider.model = None
            return
        signature = model.signature
        text = cycle.registry.payload(model).decode()
        score = LightGbmModel(text, len(signature.columns)).scorer(
            signature, [], taken_names(signature, self.loop)
        )
        self.decider.model = LiveModel(model.version, score, model.trained_on_rows)


def signature_of(loop: Loop) -> Sequence[str]:
    """Return the names of what a model of *loop* reads."""
    return [field.name for field in FeatureSignature.of_loop(loop).fields]
