"""Workers admit the models of the trainer, even if the data is odd."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from tidemill.features.lake.lake import Lake
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.assembler import Delivery
from tidemill.schemas.models.manifest import INLINE_BYTES, LIVE, ModelManifest, chunk_count, utc_now
from tidemill.serving.model.admission import TrialLimits, admit
from tidemill.trainers.learners.batch import LightGBM, Trained, train
from tidemill.trainers.rows import LabeledRows

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
    score = admit(Delivery(manifest(trained, loop), trained.payload), loop, TrialLimits())
    expected = LightGBM.of(trained).predict(rows.features)[:100]
    asked = rows.features.select(field.name for field in trained.signature.fields)
    found = [score(row) for row in asked[:100].iter_rows()]
    assert np.array_equal(np.array(found), expected)
