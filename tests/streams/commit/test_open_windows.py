"""The workers of the schedules once more, but their open rows are spilled at every commit."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
from tests.deep import examples_now
from tests.streams.join_logs import LOOP, WITH_ITEMS
from tests.streams.schedules import Workers, run
from tests.streams.workers_in_memory import METRICS, World

from tidemill.streams.commit.open_windows import CLOSING_ROWS, OpenWindows, closing_rows
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill_store import MemorySpillStore

SCHEDULES = examples_now(150)


class TightRunner(LoopRunner):
    """A budget of one byte, and segments of two rows."""

    def __init__(self, **parts: Any) -> None:  # noqa: ANN401 (those of LoopRunner)
        super().__init__(**parts)
        self._windows = OpenWindows(
            loop=self.loop.model_copy(update={"memory": 1}),
            rules=self.rules,
            tables=self._tables,
            spill_files=MemorySpillStore(),
            metrics=METRICS,
            join=self._join,
            patience_s=-1.0,
            state=partial(OpenState, segment_rows=2, spill_rows=1),
        )


@dataclass
class TightWorld(World):
    """Workers without memory."""

    runner_type: type[LoopRunner] = TightRunner


class TightWorkers(Workers):
    """The schedules of workers without memory."""

    world = TightWorld
    ran: ClassVar[Counter[str]] = Counter()


def returned() -> float:
    """Return how many decisions were read back from the lake so far."""
    samples = [sample for metric in METRICS.returned.collect() for sample in metric.samples]
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))


@pytest.mark.deep
def test_schedules_of_workers_without_memory_leave_the_lake_as_the_logs_say() -> None:
    """The result of crashes, rebalances and zombies must not depend on where the open rows are."""
    before = returned()
    run(SCHEDULES, 11, TightWorkers)
    assert returned() - before > SCHEDULES


def test_a_commit_cycle_closes_fewer_decisions_the_more_items_each_may_bring() -> None:
    """What is closed comes back into memory at once, with all lists of items."""
    assert closing_rows(LOOP) == CLOSING_ROWS
    items = WITH_ITEMS.decision.items
    assert items is not None
    assert items.max == 200
    assert closing_rows(WITH_ITEMS) == CLOSING_ROWS // 21
