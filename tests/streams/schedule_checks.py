"""Whether the tables of a world in memory are what its logs say, row by row, number by number."""

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter

from tests.streams.join_logs import START
from tests.streams.schedule_oracle import Told, oracle
from tests.streams.workers_in_memory import PARTITIONS, World

from tidemill.streams.batches import LOGS
from tidemill.streams.commits import TABLES
from tidemill.streams.rules import micros

Numbers = Mapping[str, Mapping[str, int | None]]

COLUMNS = {
    "decisions": ("offset", "verdict"),
    "feedback": ("offset", "verdict"),
    "examples": ("offset", "state", "label", "feedback_offsets", "revision"),
}


def check(world: World, *, is_over: bool = False) -> None:
    """Fail at the first difference; *is_over* says that everything must be closed by now.

    Of the lake only this is believed: how far each log is read, and how far each partition is
    closed. Rows, verdicts, examples and counts follow from the logs.
    """
    for number in range(PARTITIONS):
        numbers = {name: _numbers(world, name, number) for name in TABLES}
        read = {log: numbers[log]["offset"] or 0 for log in LOGS}
        frontier = numbers["examples"]["frontier"]
        told = oracle(
            world.rules,
            {log: world.events[log, number][: read[log]] for log in LOGS},
            -math.inf if frontier is None else (frontier - micros(START)) / 1_000_000,
            world.jumps[number],
            math.inf if not world.rules.corrections else numbers["examples"]["examined"] or 0,
        )
        rows = {
            name: sorted(world.rows(name, COLUMNS[name])[number], key=itemgetter(0, -1))
            for name in TABLES
        }
        rows["examples"] = newest(rows["examples"])
        for log in LOGS:
            assert rows[log] == sorted(told.verdicts[log].items()), (log, number)
        wanted = [(offset, *example) for offset, example in sorted(told.examples.items())]
        assert rows["examples"] == wanted, number
        check_numbers(world, number, numbers, told)
        check_ledger(rows, numbers, told)
        if is_over:
            assert read == {log: world.logs[log, number].end for log in LOGS}
            assert not told.open.total(), "a schedule ends with everything closed"


def newest(examples: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Return the last revision of each example; each has a first, and none a number twice."""
    numbers: dict[object, list[object]] = {}
    for offset, *_, revision in examples:
        numbers.setdefault(offset, []).append(revision)
    for found in numbers.values():
        assert found[0] == 0, found
        assert len(set(found)) == len(found), found
    return list({row[0]: row for row in examples}.values())


def check_numbers(world: World, number: int, numbers: Numbers, told: Told) -> None:
    """Compare what travels with the commits: dead letters, and feedback that came to nothing."""
    for log in LOGS:
        assert (numbers[log]["dead"] or 0) == told.dead[log], (log, number)
    for fate in ("late", "duplicate", "unmatched"):
        assert (numbers["examples"][fate] or 0) == told.ended[fate], (fate, number)
    letters = {
        (letter.topic, letter.offset)
        for letter in world.letters.written
        if letter.partition == number
    }
    assert len(letters) >= told.dead.total(), "a letter is safe before the lake moves past it"


def check_ledger(
    rows: Mapping[str, list[tuple[object, ...]]], numbers: Numbers, told: Told
) -> None:
    """Hold read = terminal + open, of what the tables say alone."""
    closed = len(rows["examples"])
    joined = sum(len(row[3]) for row in rows["examples"] if isinstance(row[3], list))
    counted = sum(numbers["examples"][fate] or 0 for fate in ("late", "duplicate", "unmatched"))
    for log, ended in (("decisions", closed), ("feedback", joined + counted)):
        judged = sum(row[1] is not None for row in rows[log])
        dead = numbers[log]["dead"] or 0
        assert (numbers[log]["offset"] or 0) == dead + judged + ended + told.open[log], log


def _numbers(world: World, name: str, number: int) -> dict[str, int | None]:
    found = world.table(name).progress(f"{key}/{number}" for key in TABLES[name])
    return {key: found[f"{key}/{number}"] for key in TABLES[name]}
