"""The heartbeat of a trainer says how far it has learned, and what came of its last model."""

from collections.abc import Callable

import polars as pl
from tests.trainers.cycles import BATCH_ONLY, NOW, cycle_of

from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.heartbeat import beat_of
from tidemill.trainers.publisher import MemoryModelTopic


def test_a_heartbeat_names_what_was_learned_and_the_last_verdict(
    lake: Lake,
    make_loop: Callable[..., Loop],
    make_rows: Callable[..., pl.DataFrame],
    grow: Callable[[Lake, pl.DataFrame], int],
) -> None:
    """A person wants to know why the model of last week still decides."""
    loop = make_loop(models=BATCH_ONLY)
    cycle = cycle_of(loop, lake, MemoryModelTopic())
    assert cycle.backlog == 0
    first = beat_of(cycle, NOW)
    assert (first.version, first.promoted, first.reason) == ("", False, "")
    version = grow(lake, make_rows(2_000))
    assert cycle.backlog == version
    (model,) = cycle.run(force=True)
    assert cycle.backlog == 0
    beat = beat_of(cycle, NOW)
    assert (beat.examples, beat.version, beat.reason) == (version, model.version, model.reason)
