"""A process that commits to a lake as fast as it can, at offsets another one wants too.

Run as ``python -m tests.features.lake.racer LOOP FRAME fenced|unfenced NAME`` with TIDEMILL_LAKE
set; it starts at a line on its input. It has read the progress before, so the first commits of two
racers are always for the same offset.
"""

import contextlib
import os
import sys

import polars as pl
from tests.streams.unfenced import UnfencedTable

from tidemill.errors import FencedError
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.features.lake.progress_keys import OFFSET
from tidemill.streams.commit.progress_table import ProgressTable

ROUNDS = 20
KEY = OFFSET.key(0)


def main(loop_name: str, frame: str, fence: str, name: str) -> None:
    """Try to commit `ROUNDS` rows, each at the offset the table is at."""
    table: ProgressTable = Lake(LakeConfig.from_env(os.environ)).table(loop_name, "decisions")
    if fence == "unfenced":
        table = UnfencedTable(table)
    row = pl.read_ipc(frame)
    at = table.progress([KEY])[KEY]
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(ROUNDS):
        moved = row.with_columns(offset=pl.lit(at or 0, dtype=pl.Int64))
        swap = CompareAndSwap(KEY, at, (at or 0) + 1)
        with contextlib.suppress(FencedError):
            table.append(moved, swaps=[swap], metadata={"racer": name})
        at = table.progress([KEY])[KEY]


main(*sys.argv[1:])
