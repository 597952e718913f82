"""Slices of a backfill against a fresh join of the whole logs: any rules, any logs, any slices."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.deep import deep
from tests.streams.join_logs import (
    ORDERS,
    RULES,
    SECOND,
    START,
    THREE,
    Shell,
    item_rules,
    naive,
    random_logs,
    rules,
    seconds,
    shared_labels,
    with_shared_labels,
)

from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.streams.join.idleness import frontier_at
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.reprocess.slices import RawLogs, SliceResult, join_slice

END = 10**6 // 2


def live(rng: random.Random, *, streams: bool = False, items: bool = False) -> Shell:
    """Return a worker that has read logs by RULES, with idle advances and crashes between."""
    logs, chosen = (
        random_logs(rng, 40, streams=streams, items=items),
        item_rules if items else rules,
    )
    shell = Shell(logs, chosen(logs=THREE) if streams else chosen())
    for _ in range(20):
        log, chance = rng.choice(shell.rules.logs), rng.random()
        if chance < 0.7:
            shell.poll(log, rng.choice((1, 3, 10)))
        elif chance < 0.8:
            stands = shell.join.stream_time(log)
            shell.advance(log, (seconds(stands) if stands else 0) + rng.choice((1, 5, 20)))
        else:
            shell.commit(crash_after=rng.choice((1, 2, 3, 3, 3)))
    if rng.random() < 0.5:
        for log in shell.rules.logs:
            shell.poll(log, 10**9)
    shell.commit()
    return shell


def raw_rows(shell: Shell, table: str) -> pl.DataFrame:
    """Return the rows that *shell* has of a raw table, in no order, like a lake."""
    rows = shell.rows(DECISIONS) if table == DECISIONS else shell.answers()
    if not len(rows):
        schema = shell.rules.decisions if table == DECISIONS else shell.rules.feedback
        none = pl.DataFrame(schema={**schema, "offset": pl.Int64()})
        fresh = with_shared_labels(shell.rules, None)
        rows = fresh.take_decisions(none) if table == DECISIONS else fresh.take_feedback(none)
    return rows.with_columns(
        pl.lit(0, pl.Int32).alias("partition"), pl.col("at").dt.date().alias("event_date")
    ).sample(fraction=1.0, shuffle=True, seed=1)


def raw_logs(shell: Shell, chosen: JoinRules) -> RawLogs:
    """Return the raw rows of *shell*, for a backfill by *chosen*."""
    times = [shell.times[log] for log in chosen.logs]
    known = [time for time in times if time is not None]
    return RawLogs(
        decisions=raw_rows(shell, "decisions").lazy(),
        feedback=raw_rows(shell, "feedback").lazy(),
        ends={log: {0: shell.offsets[log]} for log in chosen.logs},
        frontiers={0: frontier_at(chosen, min(known))} if len(known) == len(times) else {},
    )


def backfill(raw: RawLogs, chosen: JoinRules, bounds: Sequence[int]) -> list[SliceResult]:
    """Return the slices between *bounds*, in seconds after START."""
    times = [START + bound * SECOND for bound in bounds]
    return [
        join_slice(chosen, raw, since, until, labels=shared_labels(chosen))
        for since, until in pairwise(times)
    ]


def fresh(shell: Shell, chosen: JoinRules) -> pl.DataFrame:
    """Return the examples of a worker that reads the same logs by *chosen* from the beginning.

    Its logs are moved on where those of *shell* were, before the same records.
    """
    again = Shell(shell.logs, chosen)
    for log in chosen.logs:
        for move in (move for move in shell.advances if move.log == log):
            again.poll(log, move.offset - again.positions[log])
            again.advance(log, seconds(move.to))
        again.poll(log, shell.offsets[log] - again.positions[log])
    again.commit()
    return again.examples()


def key_of(row: Mapping[str, object]) -> tuple[int, int]:
    """Return the offset of an example's decision in its log, and the position of its item."""
    position = row.get("position")
    return int(str(row["offset"])), -1 if position is None else int(str(position))


def rows_of(frame: pl.DataFrame) -> list[dict[str, object]]:
    """Return rows by their keys, without the partition, which only a lake has."""
    return sorted(frame.drop("partition", strict=False).to_dicts(), key=key_of)


RULE_SETS = st.builds(
    lambda click, buy, early, grace, remember, bucket, missing, late: rules(
        within={"click": click * SECOND, "buy": buy * SECOND},
        early={"click": early * SECOND, "buy": 0 * SECOND},
        grace=grace * SECOND,
        remember=remember * SECOND,
        bucket=bucket * SECOND,
        missing=missing,
        corrections=late * SECOND,
    ),
    st.integers(0, 20),
    st.integers(1, 40),
    st.integers(0, 5),
    st.integers(0, 10),
    st.sampled_from([0, 15, 40]),
    st.sampled_from([1, 3, 7]),
    st.sampled_from(["negative", "censored", "dropped"]),
    st.sampled_from([0, 0, 4, 60]),
)
CUTS = st.lists(st.integers(0, 110), max_size=4)


@deep(100)
@given(st.integers(0, 2**32), RULE_SETS, CUTS, st.booleans(), st.booleans())
def test_slices_give_what_a_fresh_stream_with_the_new_rules_writes(
    seed: int, chosen: JoinRules, bounds: list[int], unchanged: bool, items: bool
) -> None:
    """The promise of a backfill: as if the loop had been defined that way from the first day."""
    shell = live(random.Random(seed), streams=seed % 3 == 0, items=items)
    chosen = shell.rules if unchanged else by_the_logs_of(shell, chosen)
    results = backfill(raw_logs(shell, chosen), chosen, [-50, *sorted(set(bounds)), END])
    found = [row for result in results for row in rows_of(result.examples)]
    assert sorted(found, key=key_of) == rows_of(fresh(shell, chosen))
    assert_counts(shell, chosen, results)
    if unchanged:
        known = {key_of(row): row for row in found}
        assert [known[key_of(row)] for row in rows_of(shell.examples())] == rows_of(
            shell.examples()
        )


def by_the_logs_of(shell: Shell, chosen: JoinRules) -> JoinRules:
    """Return *chosen* for the logs and the columns that *shell* has."""
    known = shell.rules
    return replace(chosen, logs=known.logs, decisions=known.decisions, feedback=known.feedback)


def decided(examples: pl.DataFrame) -> int:
    """Return how many decisions *examples* are of."""
    return examples["offset"].n_unique() if len(examples) else 0


def assert_counts(shell: Shell, chosen: JoinRules, results: list[SliceResult]) -> None:
    """Every decision read is late, a duplicate, open or an example; the oracle says which."""
    read = shell.logs._replace(
        decisions=shell.logs.decisions[: shell.offsets[DECISIONS]],
        feedback=shell.logs.feedback[: shell.offsets[FEEDBACK]],
        orders=shell.logs.orders[: shell.offsets.get(ORDERS, 0)],
    )
    frontier = raw_logs(shell, chosen).frontiers.get(0)
    closed = -math.inf if frontier is None else frontier / 1e6 - START.timestamp()
    states = list(naive(chosen, read, closed, shell.advances).decisions.values())
    for state in ("late", "duplicate", "open"):
        assert sum(getattr(result, state) for result in results) == states.count(state)
    total = sum(decided(r.examples) + r.late + r.duplicate + r.open for r in results)
    assert total == len(states)


def agrees(
    broken: Callable[[RawLogs, int, int], RawLogs], *, schedules: int = 150, items: bool = False
) -> bool:
    """Return whether slices over the raw rows that *broken* returns equal a fresh stream."""
    for seed in range(schedules):
        shell = live(random.Random(seed), items=items)
        chosen = (item_rules if items else rules)(within={"click": 12 * SECOND, "buy": 30 * SECOND})
        raw = raw_logs(shell, chosen)
        found = [
            row
            for bounds in pairwise((-50, 10, 25, 60, END))
            for result in backfill(broken(raw, *bounds), chosen, bounds)
            for row in rows_of(result.examples)
        ]
        if sorted(found, key=key_of) != rows_of(fresh(shell, chosen)):
            return False
    return True


def in_slice(since: int, until: int) -> pl.Expr:
    """Return whether a row happened in a slice, its bounds in seconds after START."""
    return pl.col("at").is_between(START + since * SECOND, START + until * SECOND, closed="left")


def everything(raw: RawLogs, _since: int, _until: int) -> RawLogs:
    """Return all rows."""
    return raw


def only_its_decisions(raw: RawLogs, since: int, until: int) -> RawLogs:
    """Drop the decisions before and after the slice, so no copy of one is there."""
    return replace(raw, decisions=raw.decisions.filter(in_slice(since, until)))


def only_its_feedback(raw: RawLogs, since: int, until: int) -> RawLogs:
    """Drop the feedback before and after the slice."""
    return replace(raw, feedback=raw.feedback.filter(in_slice(since, until)))


def no_stream_times(raw: RawLogs, _since: int, _until: int) -> RawLogs:
    """Judge each row by the rows of the slice before it."""
    unknown = pl.lit(None, pl.Datetime("us", "UTC")).alias("stream_time")
    return replace(
        raw,
        decisions=raw.decisions.with_columns(unknown),
        feedback=raw.feedback.with_columns(unknown),
    )


def no_items_named(raw: RawLogs, _since: int, _until: int) -> RawLogs:
    """Take all feedback as if it named no item."""
    return replace(raw, feedback=raw.feedback.with_columns(item=pl.lit(None, pl.String)))


def old_verdicts(raw: RawLogs, _since: int, _until: int) -> RawLogs:
    """Use the verdicts that rows have from the old rules."""
    first, useful = pl.col("verdict").is_null(), pl.col("verdict").is_null()
    return replace(raw, decisions=raw.decisions.filter(first), feedback=raw.feedback.filter(useful))


def everything_is_closed(raw: RawLogs, _since: int, _until: int) -> RawLogs:
    """Treat decisions as closed whose windows are not complete."""
    return replace(raw, frontiers={0: 2**62})


@pytest.mark.slow
def test_the_comparison_holds_with_everything() -> None:
    """The comparison that every control below has to fail."""
    assert agrees(everything, schedules=40)


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        only_its_decisions,
        only_its_feedback,
        no_stream_times,
        old_verdicts,
        everything_is_closed,
    ],
)
def test_without_one_of_its_inputs_a_slice_is_wrong(
    broken: Callable[[RawLogs, int, int], RawLogs],
) -> None:
    """Each row that a slice reads beside its own is there for a reason."""
    assert not agrees(broken)


@pytest.mark.slow
def test_a_slice_of_decisions_with_items_is_wrong_without_their_names() -> None:
    """The control of the comparison with items, which holds with everything."""
    assert agrees(everything, schedules=20, items=True)
    assert not agrees(no_items_named, schedules=20, items=True)


@pytest.mark.slow
def test_a_backfill_by_a_definition_without_a_stream_does_not_see_it() -> None:
    """A version from before the stream was added gives what a worker of that version wrote."""
    for seed in range(20):
        shell = live(random.Random(seed), streams=True)
        found = backfill(raw_logs(shell, RULES), RULES, [-50, END])
        assert rows_of(found[0].examples) == rows_of(fresh(shell, RULES))
