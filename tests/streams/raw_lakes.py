"""Lakes for tests of readers of raw tables: the logs of `join_logs.py`, one partition each."""

import random
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from tests.streams.join_logs import (
    LOGS,
    LOOP,
    ORDERS,
    THREE,
    WITH_ITEMS,
    D,
    F,
    Logs,
    Shell,
    item_rules,
    rules,
    seconds,
    with_items,
)

from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.features.lake.layouts import table_of
from tidemill.features.lake.progress_keys import FRONTIER, OFFSET, STREAM_TIME, join_time
from tidemill.schemas import topics
from tidemill.schemas.logs import topic_of
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.units import micros


def shop(partitions: int, stream: str | None = None, *, items: bool = False) -> Loop:
    """Return the loop of `join_logs.py` with so many partitions, its purchases in *stream*."""
    tree = (WITH_ITEMS if items else LOOP).model_dump(mode="json") | {"partitions": partitions}
    tree["feedback"]["buy"]["stream"] = stream
    return Loop.model_validate(tree)


def minutes_of_logs(
    rng: random.Random, size: int, *, streams: bool = False, items: bool = False
) -> Logs:
    """Return logs of ten minutes with some copies, late and orphaned records."""
    span = 600
    decisions = [D(f"d{number}", rng.randint(0, span)) for number in range(size)]
    decisions += [rng.choice(decisions) for _ in range(size // 10)]
    feedback = []
    for number in range(size):
        d = rng.choice(decisions) if rng.random() < 0.9 else D("nobody", rng.randint(0, span))
        at = d.at + rng.choice((-2, -1, 0, 1, 3, 4, 8, 9, 20))
        feedback.append(F(f"f{number}", d.id, at, rng.choice(("click", "buy")), rng.random()))
    feedback += [rng.choice(feedback) for _ in range(size // 10)]
    decisions.sort(key=lambda d: d.at + rng.uniform(-3, 3))
    feedback.sort(key=lambda f: f.at + rng.uniform(-3, 3))
    if items:
        return with_items(rng, Logs(decisions, feedback))
    if not streams:
        return Logs(decisions, feedback)
    clicks = [f for f in feedback if f.kind == "click"]
    return Logs(decisions, clicks, [f for f in feedback if f.kind == "buy"])


def worked(seed: int, size: int = 300, *, streams: bool = False, items: bool = False) -> Shell:
    """Return a worker that has read such logs to their end, with idle advances between."""
    rng = random.Random(seed)
    chosen = item_rules if items else rules
    logs = minutes_of_logs(rng, size, streams=streams, items=items)
    shell = Shell(logs, chosen(logs=THREE if streams else LOGS))
    while sum(shell.positions.values()) < sum(map(len, shell.logs)):
        log = rng.choice(shell.rules.logs)
        shell.poll(log, rng.choice((1, 10, 30)))
        if rng.random() < 0.02:
            stands = shell.join.stream_time(log)
            shell.advance(log, (seconds(stands) if stands else 0) + rng.choice((1, 5)))
        if rng.random() < 0.3:
            shell.commit()
    shell.commit()
    return shell


def write(folder: Path, shells: Sequence[Shell]) -> Lake:
    """Return a lake at *folder* with what each of *shells* has committed, in several files."""
    stream = "orders" if ORDERS in shells[0].rules.logs else None
    items = shells[0].rules.has_items
    lake, loop = Lake(LakeConfig(root=str(folder))), shop(len(shells), stream, items=items)
    lake.create(loop)
    for number, shell in enumerate(shells):
        for log in loop.logs:
            table = lake.table(loop.loop, table_of(log))
            rows = _with_positions(shell.rows(log), number, topic_of(loop.loop, log))
            for third in (rows[number::3] for number in range(3)):
                table.append(third, swaps=[])
            time = shell.times[log]
            numbers = {
                OFFSET: shell.offsets[log],
                STREAM_TIME: None if time is None else micros(time),
            }
            swaps = [
                CompareAndSwap(name.for_log(log).key(number), None, at)
                for name, at in numbers.items()
                if at is not None
            ]
            table.append(None, swaps=swaps)
        if shell.closed:
            topic = topics.decisions(loop.loop)
            examples = shell.examples().with_columns(pl.lit(topic).alias("topic"))
            numbers = {FRONTIER: micros(shell.closed[-1].frontier)}
            numbers |= {join_time(k): micros(t) for k, t in shell.closed[-1].stream_times.items()}
            examples = examples.with_columns(pl.lit(number, pl.Int32).alias("partition"))
            swaps = [
                CompareAndSwap(name.key(number), None, at)
                for name, at in numbers.items()
                if at is not None
            ]
            lake.table(loop.loop, "examples").append(examples, swaps=swaps)
    return lake


def _with_positions(frame: pl.DataFrame, partition: int, topic: str) -> pl.DataFrame:
    return frame.with_columns(
        pl.lit(partition, pl.Int32).alias("partition"),
        pl.lit(topic).alias("topic"),
        pl.col("at").alias("ingested_at"),
    )


def examples(lake: Lake, table: str = "examples", loop: str = LOOP.loop) -> list[dict[str, object]]:
    """Return the rows of a table of examples, by partition, offset and position of the item."""
    rows = lake.table(loop, table).read()
    keys = [name for name in ("partition", "offset", "position") if name in rows.columns]
    return rows.sort(keys).to_dicts()
