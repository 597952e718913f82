"""A lake as a worker would leave it, for tests that look into it from outside."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl
from tests.streams.join_logs import LOOP, START, Shell

from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.features.lake.layouts import table_of
from tidemill.features.lake.progress_keys import EXAMINED, OFFSET, ProgressName, join_time
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.units import micros

Spoil = Callable[[pl.DataFrame], pl.DataFrame]
PARTITION = 1


def write_lake(
    stream: Shell,
    folder: Path | LakeConfig,
    *,
    spoil: Mapping[str, Spoil] | None = None,
    loops: Sequence[Loop] = (LOOP,),
    begins: Mapping[str, Mapping[str, int]] | None = None,
) -> Lake:
    """Write what *stream* committed to a lake in *folder*, or in the one of a config.

    *spoil* changes what a log or the examples have first; *begins* are more numbers for their
    commits, by log or "examples".
    """
    lake = Lake(LakeConfig(root=str(folder)) if isinstance(folder, Path) else folder)
    for loop in loops:
        lake.create(loop)
    change = dict(spoil or {})
    place = {"topic": pl.lit("shop"), "partition": pl.lit(PARTITION, dtype=pl.Int32)}
    for log in stream.rules.logs:
        frame = stream.rows(log)
        if stream.raw[log]:
            frame = change.get(log, unspoiled)(
                frame.with_columns(ingested_at=pl.col("at"), **place)
            )
        numbers = {
            "offset": stream.offsets[log],
            "time": micros(stream.times[log] or START),
            **(begins or {}).get(log, {}),
        }
        swaps = swaps_of(
            {ProgressName(name).for_log(log): number for name, number in numbers.items()}
        )
        lake.table(loops[-1].loop, table_of(log)).append(frame, swaps=swaps)
    closed = stream.closed[-1]
    numbers = {
        "frontier": micros(closed.frontier),
        "late": closed.counts.late,
        "duplicate": closed.counts.duplicate,
        "unmatched": closed.counts.unmatched,
        "unknown_item": closed.counts.unknown_item,
        **{join_time(log): micros(at) for log, at in closed.stream_times.items()},
        **(begins or {}).get("examples", {}),
    }
    if closed.examined:
        numbers |= {EXAMINED.for_log(log): at for log, at in closed.examined.items()}
        numbers |= {"revised": closed.revised}
    examples = stream.revisions().with_columns(**place)
    lake.table(loops[-1].loop, "examples").append(
        change.get("examples", unspoiled)(examples),
        swaps=swaps_of(numbers),
    )
    return lake


def swaps_of(numbers: Mapping[str, int]) -> list[CompareAndSwap]:
    """Return what writes the progress *numbers* of the partition for the first time."""
    return [
        CompareAndSwap(ProgressName(name).key(PARTITION), None, number)
        for name, number in numbers.items()
    ]


def unspoiled(frame: pl.DataFrame) -> pl.DataFrame:
    """Return *frame* as it is: the rows of a table that no test spoils."""
    return frame


class GrowingLake:
    """A lake that follows what a stream commits, as a worker would leave it after each commit."""

    def __init__(self, stream: Shell, folder: Path, loop: Loop = LOOP) -> None:
        self.lake = Lake(LakeConfig(root=str(folder)))
        self.lake.create(loop)
        self._stream = stream
        self._written: dict[str, int] = {}
        self._numbers: dict[str, int] = {}

    def follow(self, spoil: Spoil = unspoiled) -> None:
        """Commit what is new: raw rows, then examples changed by *spoil*."""
        place = {"topic": pl.lit("shop"), "partition": pl.lit(PARTITION, dtype=pl.Int32)}
        for log in self._stream.rules.logs:
            rows = self._new(log, self._stream.raw[log])
            frame = rows.with_columns(ingested_at=pl.col("at"), **place) if len(rows) else None
            offset: dict[str, int] = {OFFSET.for_log(log): self._stream.offsets[log]}
            self._append(table_of(log), frame, offset)
        if self._stream.closed:
            closed = self._stream.closed[-1]
            rows = self._new("examples", [each.examples for each in self._stream.closed])
            numbers = {
                "frontier": micros(closed.frontier),
                "late": closed.counts.late,
                "duplicate": closed.counts.duplicate,
                "unmatched": closed.counts.unmatched,
                "unknown_item": closed.counts.unknown_item,
            }
            if closed.examined:
                numbers |= {EXAMINED.for_log(log): at for log, at in closed.examined.items()}
                numbers |= {"revised": closed.revised}
            frame = spoil(rows.with_columns(**place)) if len(rows) else None
            self._append("examples", frame, numbers)

    def _new(self, table: str, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        start, self._written[table] = self._written.get(table, 0), len(frames)
        return pl.concat(frames[start:]) if len(frames) > start else pl.DataFrame()

    def _append(self, table: str, frame: pl.DataFrame | None, numbers: Mapping[str, int]) -> None:
        swaps = []
        for name, number in numbers.items():
            known = self._numbers.get(f"{table}/{name}")
            swaps.append(CompareAndSwap(ProgressName(name).key(PARTITION), known, number))
            self._numbers[f"{table}/{name}"] = number
        self.lake.table(LOOP.loop, table).append(frame, swaps=swaps)
