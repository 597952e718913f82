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
    "examples": ("offset", "position", "state", "label", "feedback_offsets", "revision"),
}
OUTCOMES = ("late", "duplicate", "unmatched", "unknown_item")


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
        rows = {name: sorted(_rows(world, name, number), key=itemgetter(0, -1)) for name in TABLES}
        rows["examples"] = newest(rows["examples"])
        for name, verdicts in expected.verdicts.items():
            assert rows[name] == sorted(verdicts.items()), (name, number)
        wanted = [(*key, *example) for key, example in expected.examples.items()]
        assert rows["examples"] == sorted(wanted, key=_by_key), number
        check_numbers(world, number, numbers, expected)
        check_ledger(rows, numbers, expected)
        if is_over:
            assert read == {log: world.logs[log, number].end for log in read}
            assert not expected.open.total(), "a schedule ends with everything closed"


def newest(examples: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Return the last revision of each example; each has a first, and none a number twice."""
    numbers: dict[object, list[object]] = {}
    for offset, position, *_, revision in examples:
        numbers.setdefault((offset, position), []).append(revision)
    for found in numbers.values():
        assert found[0] == 0, found
        assert len(set(found)) == len(found), found
    return sorted({row[:2]: row for row in examples}.values(), key=_by_key)


def _by_key(row: tuple[object, ...]) -> tuple[object, int]:
    """Return the key by which examples are ordered; that of none shown is the first."""
    return row[0], row[1] if isinstance(row[1], int) else -1


def _rows(world: World, name: str, number: int) -> list[tuple[object, ...]]:
    """Return the rows of a table; examples of loops with actions have the position None."""
    columns = [each for each in COLUMNS[name] if each != "position" or world.rules.has_items]
    rows = world.rows(name, columns)[number]
    if name != "examples" or world.rules.has_items:
        return rows
    return [(offset, None, *others) for offset, *others in rows]


def check_numbers(world: World, number: int, numbers: Lease, expected: Expected) -> None:
    """Compare the numbers of the commits: dead letters, and feedback that joined no decision."""
    for log in numbers.logs:
        assert (numbers.of(log, "dead") or 0) == expected.dead[log], (log, number)
    for outcome in OUTCOMES:
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
    closed = len({row[0] for row in rows["examples"]})
    lists = [row[4] for row in rows["examples"] if isinstance(row[4], list)]
    joined = len({offset for offsets in lists for offset in offsets})
    counted = sum(_ended(numbers, outcome) for outcome in OUTCOMES)
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
