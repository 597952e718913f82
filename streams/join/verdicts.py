"""The columns `verdict` and `stream_time` of a raw table: late, duplicate or none, and by what."""

import numpy as np
import polars as pl

from tidemill.streams.units import NEVER, Bools, Int64s

LATE, DUPLICATE = "late", "duplicate"
_VERDICTS = pl.Series("verdict", [None, LATE, DUPLICATE], dtype=pl.String)
_TIME = pl.Datetime("us", "UTC")


def with_verdicts(
    frame: pl.DataFrame, before: Int64s, late: Bools, duplicate: Bools
) -> pl.DataFrame:
    """Return *frame* with the columns stream_time and verdict."""
    time = pl.Series("stream_time", before)
    if len(before) and before[0] == NEVER:
        time = time.set(time == NEVER, None)
    verdict = _VERDICTS.gather(np.where(late, 1, np.where(duplicate, 2, 0)))
    return frame.with_columns(time.cast(_TIME), verdict)
