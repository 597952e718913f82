"""A process that commits to a lake as fast as it can, at offsets another one wants too.

Run as ``racer.py LOOP FRAME fenced|unfenced NAME`` with TIDEMILL_LAKE set; it starts at a line on
its input.
"""

import os
import sys

import polars as pl

from tidemill.errors import FencedError
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig

ROUNDS = 20


def main(loop_name: str, frame: str, fence: str, name: str) -> None:
    """Try to commit `ROUNDS` rows, each at the offset the table is at."""
    fenced = fence == "fenced"
    table = Lake(LakeConfig.from_env(os.environ)).table(loop_name, "decisions", fenced=fenced)
    row = pl.read_ipc(frame)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(ROUNDS):
        at = table.progress(["offset/0"])["offset/0"]
        moved = row.with_columns(offset=pl.lit(at or 0, dtype=pl.Int64))
        swap = CompareAndSwap("offset/0", at, (at or 0) + 1)
        try:
            table.append(moved, swaps=[swap], metadata={"racer": name})
        except FencedError:
            continue


main(*sys.argv[1:])
