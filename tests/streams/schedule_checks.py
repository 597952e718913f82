"""Compares the tables of a world in memory with its logs, row by row and number by number."""

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter

from tests.streams.join_logs import START
from tests.streams.schedule_oracle import Expected, oracle
from tests.streams.workers_in_memory import PARTITIONS, World

from tidemill.features.lake.layouts import TABLES, table_of
from tidemill.streams.commit.leases import Lease, number_names
from tidemill.streams.units import micros

COLUMNS = {
    "decisions": ("offset", "verdict"),
    "feedback": ("offset", "verdict"),
    "examples": ("offset", "state", "label", "feedback_offsets", "revision"),
}


def check(world: World, *, is_over: bool = False) -> None:
    """Fail at the first difference; with *is_over* everything must be closed.

    Only the offset of each log and the frontier of each partition are taken from the lake. Rows,
    verdicts, examples and counts follow from the logs.
    """
    for number in range(PARTITIONS):
        numbers = _numbers(world, number)
        read = {log: numbers.offset(log) for log in world.rules.logs}
        frontier = numbers.numbers["examples"]["frontier"]
        begun = dict.fromkeys(read, 0)
        expected = oracle(
            world.rules,
            {log: world.events[log, number][:end] for log, end in read.items()},
            -math.inf if frontier is None else (frontier - micros(START)) / 1_000_000,
            world.jumps[number],
            {**begun, **numbers.examined} if world.rules.corrections else None,
        )
        rows = {
            name: sorted(world.rows(name, COLUMNS[name])[number], key=itemgetter(0, -1))
            for name in TABLES
        }
        rows["examples"] = newest(rows["examples"])
        for name, verdicts in expected.verdicts.items():
            assert rows[name] == sorted(verdicts.items()), (name, number)
        wanted = [(offset, *example) for offset, example in sorted(expected.examples.items())]
        assert rows["examples"] == wanted, number
        check_numbers(world, number, numbers, expected)
        check_ledger(rows, numbers, expected)
        if is_over:
            assert read == {log: world.logs[log, number].end for log in read}
            assert not expected.open.total(), "a schedule ends with everything closed"


def newest(examples: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Return the last revision of each example; each has a first, and none a number twice."""
    numbers: dict[object, list[object]] = {}
    for offset, *_, revision in examples:
        numbers.setdefault(offset, []).append(revision)
    for found in numbers.values():
        assert found[0] == 0, found
        assert len(set(found)) == len(found), found
    return list({row[0]: row for row in examples}.values())


def check_numbers(world: World, number: int, numbers: Lease, expected: Expected) -> None:
    """Compare the numbers of the commits: dead letters, and feedback that joined no decision."""
    for log in numbers.logs:
        assert (numbers.of(log, "dead") or 0) == expected.dead[log], (log, number)
    for outcome in ("late", "duplicate", "unmatched"):
        assert _ended(numbers, outcome) == expected.ended[outcome], (outcome, number)
    dead_letters = {
        (letter.topic, letter.offset)
        for letter in world.dead_letters.written
        if letter.partition == number
    }
    assert len(dead_letters) >= expected.dead.total(), (
        "a dead letter is written before the lake passes its record"
    )


def check_ledger(
    rows: Mapping[str, list[tuple[object, ...]]], numbers: Lease, expected: Expected
) -> None:
    """Check that read = terminal + open, by the tables alone."""
    closed = len(rows["examples"])
    joined = sum(len(row[3]) for row in rows["examples"] if isinstance(row[3], list))
    counted = sum(_ended(numbers, outcome) for outcome in ("late", "duplicate", "unmatched"))
    for name, ended in (("decisions", closed), ("feedback", joined + counted)):
        logs = [log for log in numbers.logs if table_of(log) == name]
        judged = sum(row[1] is not None for row in rows[name])
        dead = sum(numbers.of(log, "dead") or 0 for log in logs)
        read = sum(numbers.offset(log) for log in logs)
        assert read == dead + judged + ended + expected.open[name], name


def _ended(numbers: Lease, outcome: str) -> int:
    """Return how much feedback ended so; the ids of schedules are not placed by their hash."""
    of_examples = numbers.numbers["examples"]
    misplaced = of_examples["misplaced"] or 0
    return (of_examples[outcome] or 0) + (misplaced if outcome == "unmatched" else 0)


def _numbers(world: World, number: int) -> Lease:
    found = Lease(number, world.rules.logs)
    for name in TABLES:
        names = number_names(name, found.logs)
        known = world.table(name).progress(each.key(number) for each in names)
        found.numbers[name] = {each: known[each.key(number)] for each in names}
    return found
