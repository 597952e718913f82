"""The cost of a backfill: rows of the raw tables joined again, by one process and by two."""

import tempfile
import time
from collections.abc import Callable

from benchmarks.processes import on_all_cores
from benchmarks.rawlake import fill
from benchmarks.workload import loop
from tidemill.deploy.reprocess.backfill import begun, run
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.streams.reprocess.variants import variant

Say = Callable[[str], None]
NAME = "bench-backfill"


def measure_backfill(decisions: int, say: Say) -> dict[str, float]:
    """Return the figures of the report's `backfill`; half as much feedback comes with decisions."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        lake, live = Lake(LakeConfig(root=folder)), loop(NAME)
        fill(lake, live, decisions)
        say(f"backfill: {decisions:,} decisions and {decisions // 2:,} feedback are in the lake")
        wider = variant(live, within={"click": "30s"}, label="sum(amount) > 1")
        figures: dict[str, float] = {"decisions": decisions}
        events = decisions * 3 // 2
        for name, processes in (("one", 1), ("two", 2)):
            made = begun(lake, wider, name, since=None, until=None, processes=2)
            started = time.monotonic()
            with on_all_cores():
                done, cpu_s = run(lake, made, processes=processes, env={"TIDEMILL_LAKE": folder})
            wall_s = time.monotonic() - started
            if done.total("examples") + done.total("open") != decisions:
                raise RuntimeError(f"{decisions} decisions became {done}")
            figures[f"{name}_rows_per_second"] = events / wall_s
            figures[f"{name}_cpu_s_per_million"] = cpu_s / events * 1e6
    return figures
