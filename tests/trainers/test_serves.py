"""Workers admit the models of the trainer, even if the data is odd."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from tests.trainers.cycles import KEY, cycle_of
from tests.trainers.shop import Shop, shop_loop

from tidemill.features.lake.lake import Lake
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.assembler import Delivery
from tidemill.schemas.models.manifest import (
    INLINE_BYTES,
    LIVE,
    Ack,
    ModelManifest,
    chunk_count,
    utc_now,
)
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.model.admission import admit
from tidemill.serving.model.follower import Follower
from tidemill.serving.model.trial_process import TrialProcess
from tidemill.trainers.learners.batch import LightGBM, Trained, train
from tidemill.trainers.publisher import MemoryModelTopic
from tidemill.trainers.rows import LabeledRows

GREEDILY = {"epsilon": 0.0}

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
Odd = Callable[[pl.DataFrame], pl.DataFrame]


def manifest(trained: Trained, loop: Loop) -> ModelManifest:
    """Return the manifest the publisher would write."""
    return ModelManifest(
        loop=loop.loop,
        loop_version=loop.version,
        slot=LIVE,
        version="lightgbm-1",
        number=1,
        sequence=1,
        learner=trained.learner,
        label_type=loop.label.type,
        digest=trained.digest,
        payload_bytes=len(trained.payload),
        chunks=0 if len(trained.payload) <= INLINE_BYTES else chunk_count(len(trained.payload)),
        features=trained.signature.to_json(),
        features_digest=trained.signature.digest,
        policy_version=1,
        snapshot=trained.snapshot,
        trained_on_rows=trained.rows,
        base_rate=trained.base_rate,
        metrics={},
        created_at=utc_now(),
    )


def field(name: str, value: pl.Expr) -> Odd:
    """Put *value* in the place of one feature."""
    return lambda rows: rows.with_columns(
        pl.col("features").struct.with_fields(value.alias(name)).alias("features")
    )


ODD: dict[str, Odd] = {
    "as usual": lambda rows: rows,
    "one label alone": lambda rows: rows.with_columns(pl.lit(0.0).alias("label")),
    "a number that never changes": field("hour", pl.lit(7, dtype=pl.Int64)),
    "a number that is always null": field("wind", pl.lit(None, dtype=pl.Float64)),
    "a category that is always null": field("line", pl.lit(None, dtype=pl.String)),
    "a list that is always empty": field("tags", pl.lit([], dtype=pl.List(pl.String))),
    "words of other alphabets": field("line", pl.lit("\u0416 \N{SNOWMAN}=\n\"'")),
    "huge numbers": field("wind", pl.col("offset").cast(pl.Float64) * 1e300),
    "a thousand words": field("line", pl.col("decision_id").str.slice(0, 7)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_a_worker_admits_what_was_trained_and_scores_the_same_bits(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow, name: str
) -> None:
    """A model that every worker refuses is a loop that stands still."""
    loop = make_loop()
    lake.create(loop)
    grow(lake, ODD[name](make_rows(1_500)))
    rows = LabeledRows.of(training_set(lake, loop), loop)
    assert loop.models.batch is not None
    trained = train(rows, loop, loop.models.batch)
    score = admit(Delivery.of(manifest(trained, loop), trained.payload), loop, TrialProcess())
    expected = LightGBM.of(trained).predict(rows.features)[:100]
    asked = rows.features.select(field.name for field in trained.signature.fields)
    found = [score(row) for row in asked[:100].iter_rows()]
    assert np.array_equal(np.array(found), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "learner"), [("choice", "batch"), ("ranking", "online")])
def test_a_worker_decides_among_items_by_the_model_on_the_topic(
    lake: Lake, kind: str, learner: str
) -> None:
    """From shown items to an answer: trained, promoted, signed, admitted, and best item first."""
    by_price = np.tile([0.05, 0.6], (3, 3))  # customers click what has a price of 1
    batch = {"min_labels": 1_000, "retrain": {"new_labels": 2_000}, "rounds": 20}
    models = {"batch": batch} | {"online": {"learning_rate": 0.05, "publish_every": 1_000}}
    policy = {"kind": "greedy", "epsilon": 0.3}
    loop = shop_loop(kind, policy=policy, models={"batch": None, learner: models[learner]})
    lake.create(loop)
    shop, topic = Shop(loop, clicks=by_price), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    for _ in range(6):
        shop.fill(lake, 1_200)
        cycle.run()
    answers: list[Ack] = []
    follower = Follower(
        "w-1",
        make=lambda loop, counters: Decider(
            loop, store=MemorySchemaStore(), log=MemoryEventLog(), counters=counters
        ),
        admit=lambda delivery, loop: admit(delivery, loop, TrialProcess()),
        acknowledge=answers.append,
        trusted=TrustedKeys.of([KEY.public]),
    )
    follower.install(loop.model_copy(update={"policy": loop.policy.model_copy(update=GREEDILY)}))
    for key, value in topic.read().items():
        follower.take_model(key, value)
    follower.settle()
    decider = follower.deciders["shop"]
    assert [answer.status for answer in answers] == ["serving"], answers
    dear = {"id": "dear", "features": {"kind": "k1", "price": 1.0}}
    cheap = {"id": "cheap", "features": {"kind": "k0", "price": 0.0}}
    found = decider.decide(decider.decisions.check({"segment": "s0"}, items=[cheap, dear]))
    assert found.source == "model"
    assert found.action == ("dear" if kind == "choice" else ["dear", "cheap"])
