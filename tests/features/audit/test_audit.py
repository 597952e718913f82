"""The audit: silent about what is right, in any slices; and it names whatever was planted."""

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.features.audit.test_oracle import large_logs
from tests.features.audited import PARTITION, Spoil, write_lake
from tests.features.streamlakes import BUYS, CLICKS, DECISIONS, ORDERS, SHOP, write_streams
from tests.streams.join_logs import LOGS, LOOP, SECOND, START, Shell, random_logs

from tidemill.features.audit.audit import Effort, audit
from tidemill.features.audit.report import AuditReport
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.progress_keys import NOTHING_CLOSED
from tidemill.monitor.label_lag import label_lags
from tidemill.monitor.trace import trace
from tidemill.schemas import logs
from tidemill.schemas.logs import OFFSETS
from tidemill.schemas.loop.definition import Feedback, Label, Loop
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros

pytestmark = pytest.mark.slow  # each makes a lake and audits it

TINY = Effort(rows=40, threads=1, memory_mb=256)
WHOLE = Effort(threads=1, memory_mb=256)


def a_stream() -> Shell:
    """Return a stream that has committed some of everything."""
    stream = Shell(random_logs(random.Random(11), 200))
    for _ in range(10):
        for log in LOGS:
            stream.poll(log, 20)
        stream.commit()
    return stream


@pytest.mark.parametrize("loop", [LOOP, SHOP], ids=["two logs", "three logs"])
@pytest.mark.parametrize("seed", range(5))
def test_what_a_stream_wrote_is_right(seed: int, loop: Loop, tmp_path: Path) -> None:
    """In the middle of the work, after crashes and idle advances, in slices of any size."""
    rng = random.Random(seed)
    stream = Shell(random_logs(rng, 80, streams=loop is SHOP), JoinRules.of(loop))
    for _ in range(25):
        stream.poll(rng.choice(loop.logs), rng.choice((1, 5, 20)))
        if rng.random() < 0.1:
            stream.advance(rng.choice(loop.logs), rng.randint(0, 60))
        if rng.random() < 0.4:
            stream.commit(crash_after=rng.choice((0, 1, 2, 3, 3, 3)))
    stream.finish()
    lake = write_lake(stream, tmp_path, loops=[loop])
    for effort in (WHOLE, TINY):
        report = audit(lake, LOOP.loop, effort=effort)
        assert report.agrees, [str(found) for found in report.first]
        assert report.is_whole
        assert report.records == sum(stream.offsets.values())
        assert report.decisions == stream.offsets[logs.DECISIONS]
        assert report.feedback == report.records - report.decisions


def test_what_is_open_is_not_compared(tmp_path: Path) -> None:
    """Raw rows are newer than the examples while a worker commits; that is no difference."""
    stream = a_stream()
    for log in LOGS:
        stream.poll(log, 20)
    stream.commit(crash_after=2)
    report = audit(write_lake(stream, tmp_path), LOOP.loop, effort=WHOLE)
    assert report.agrees
    assert 0 < report.decisions < stream.offsets[logs.DECISIONS]


def test_a_large_log_is_compared_in_shares_of_its_ids(tmp_path: Path) -> None:
    """More rows than are compared at once, within the time that ids are remembered."""
    stream = Shell(large_logs(random.Random(5), 3_000))
    stream.finish()
    lake = write_lake(stream, tmp_path)
    steps: list[tuple[int, int]] = []
    effort = Effort(rows=1_500, threads=1, memory_mb=256)
    report = audit(
        lake, LOOP.loop, effort=effort, on_step=lambda done, of: steps.append((done, of))
    )
    assert report.agrees
    assert report.decisions == stream.offsets[logs.DECISIONS]
    assert [done for done, _ in steps] == list(range(len(steps)))
    assert steps[-1] == (len(steps) - 1, len(steps) - 1)
    part = audit(lake, LOOP.loop, effort=Effort(rows=1_500, shares=1, threads=1, memory_mb=256))
    assert part.agrees
    assert not part.is_whole
    assert 0 < part.decisions < report.decisions / 2


def at(row: int, **columns: pl.Expr | int | str | float | None) -> Spoil:
    """Return what changes columns of one row."""
    here = pl.int_range(pl.len()) == row

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(
            pl.when(here)
            .then(value if isinstance(value, pl.Expr) else pl.lit(value, dtype=frame[name].dtype))
            .otherwise(pl.col(name))
            .alias(name)
            for name, value in columns.items()
        )

    return change


def without(row: int) -> Spoil:
    """Return what leaves one row out."""
    return lambda frame: frame.filter(pl.int_range(pl.len()) != row)


def twice(row: int) -> Spoil:
    """Return what has one row twice."""
    return lambda frame: pl.concat([frame, frame[row : row + 1]])


def a_joined_row(stream: Shell) -> int:
    """Return the place of an example that has two feedback records."""
    lengths = stream.examples()["feedback_offsets"].list.len()
    return next(place for place, length in enumerate(lengths) if length > 1)


FAILING = "max(100 % cast(coalesce(weight, amount) as int))"


def failing_lake(folder: Path, spoil: Spoil | None = None) -> Lake:
    """Return a lake of a loop whose label is an error for some decisions."""
    loop = LOOP.model_copy(update={"label": Label(sql=FAILING, type="float")})
    stream = Shell(random_logs(random.Random(5), 300), JoinRules.of(loop))
    stream.finish()
    states = stream.examples()["state"].value_counts(sort=True)["state"].to_list()
    assert {"label_error", "labeled", "no_feedback"} <= set(states)
    return write_lake(stream, folder, loops=[loop], spoil={"examples": spoil} if spoil else None)


def test_an_audit_finds_the_errors_of_a_label_where_the_stream_did(tmp_path: Path) -> None:
    """It ended in a traceback for ever, for one feedback with a zero."""
    for effort in (WHOLE, TINY):
        report = audit(failing_lake(tmp_path / str(effort.rows)), LOOP.loop, effort=effort)
        assert report.agrees, [str(found) for found in report.first]


def test_a_label_error_that_was_written_as_a_negative_is_found(tmp_path: Path) -> None:
    """As an earlier version wrote it."""

    def as_negative(frame: pl.DataFrame) -> pl.DataFrame:
        is_error = pl.col("state") == "label_error"
        return frame.with_columns(
            label=pl.when(is_error).then(0.0).otherwise("label"),
            state=pl.when(is_error).then(pl.lit("no_feedback")).otherwise("state"),
        )

    report = audit(failing_lake(tmp_path, as_negative), LOOP.loop, effort=WHOLE)
    assert report.differences > 0
    assert {found.columns["state"] for found in report.first} == {("no_feedback", "label_error")}


@pytest.mark.parametrize(
    ("spoil", "column", "stream", "audit_says"),
    [
        (lambda n: at(n, label=pl.col("label") + 1), "label", None, None),
        (lambda n: at(n, state="no_feedback"), "state", "no_feedback", "labeled"),
        (without, "rows", "0", "1"),
        (twice, "rows", "2", "1"),
        (lambda n: at(n, feedback_offsets=pl.col("feedback_offsets").list.head(1)),
         "feedback_offsets", None, None),
        (lambda n: at(n, first_feedback_at=None), "first_feedback_at", None, None),
        (lambda n: at(n, action=True), "action", "true", "false"),
        (lambda n: at(n, features=pl.struct(price=pl.lit(99.0))), "features", None, None),
    ],
    ids=["label", "state", "missing", "doubled", "feedback", "time", "action", "features"],
)  # fmt: skip
def test_a_wrong_example_is_found_and_named(
    tmp_path: Path,
    spoil: Callable[[int], Spoil],
    column: str,
    stream: str | None,
    audit_says: str | None,
) -> None:
    """Which decision, where, which column, what is there and what should be."""
    source = a_stream()
    row = a_joined_row(source)
    wrong = source.examples().row(row, named=True)
    lake = write_lake(source, tmp_path, spoil={"examples": spoil(row)})
    report = audit(lake, LOOP.loop, effort=WHOLE)
    assert report.differences == 1
    (found,) = report.first
    assert (found.log, found.partition) == ("decisions", PARTITION)
    assert (found.id, found.offset) == (wrong["decision_id"], wrong["offset"])
    assert found.column == column
    assert f"{column} is" in str(found)
    told = found.columns[column]
    assert told[0] != told[1]
    assert told == (stream or told[0], audit_says or told[1])


def _ghost(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([frame, at(0, offset=99_999)(frame[:1])])


@pytest.mark.parametrize(
    ("table", "spoil", "log", "column"),
    [
        ("examples", _ghost, "decisions", "rows"),
        ("decisions", at(4, verdict="duplicate"), "decisions", "verdict"),
        ("decisions", at(4, verdict="late"), "decisions", "verdict"),
        ("decisions", at(40, stream_time=None), "decisions", "stream_time"),
        ("feedback", at(4, verdict="late"), "feedback", "verdict"),
        ("feedback", at(40, stream_time=None), "feedback", "stream_time"),
        ("feedback", twice(9), "feedback", "rows"),
        ("decisions", twice(9), "decisions", "rows"),
    ],
)
def test_wrong_rows_elsewhere_are_found_too(
    tmp_path: Path, table: str, spoil: Spoil, log: str, column: str
) -> None:
    """A row without a decision, a verdict nobody gave, a time nobody read."""
    lake = write_lake(a_stream(), tmp_path, spoil={table: spoil})
    report = audit(lake, LOOP.loop, effort=WHOLE)
    assert not report.agrees
    assert any(found.log == log and column in found.columns for found in report.first), report.first


def test_counts_that_are_off_are_found(tmp_path: Path) -> None:
    """Feedback that joined nothing is a number only; it has to be the right one."""
    stream = a_stream()
    stream.finish()
    assert audit(write_lake(stream, tmp_path / "right"), LOOP.loop, effort=WHOLE).agrees
    last = stream.closed[-1]
    object.__setattr__(last, "counts", type(last.counts)(late=last.counts.late + 1))
    report = audit(write_lake(stream, tmp_path / "wrong"), LOOP.loop, effort=WHOLE)
    (found,) = report.first
    assert (found.log, found.partition) == ("counts", PARTITION)
    assert found.columns["late"][0] == str(last.counts.late)
    assert "ledger" in found.hint


def between(folder: Path, wrong_at: int, since: int, until: int) -> AuditReport:
    """Return the audit of [*since*, *until*) seconds where a decision at *wrong_at* is wrong."""
    stream = Shell(large_logs(random.Random(5), 2_000))
    stream.finish()
    times = stream.examples()["at"]
    row = int((times >= START + wrong_at * SECOND).arg_max() or 0)
    spoil = at(row, state="censored")
    lake = write_lake(stream, folder, spoil={"examples": spoil})
    return audit(
        lake, LOOP.loop, since=START + since * SECOND, until=START + until * SECOND, effort=WHOLE
    )


def test_an_audit_can_be_bounded_by_event_time(tmp_path: Path) -> None:
    """Yesterday alone is looked at in a fraction of the time."""
    report = between(tmp_path / "in", 30, 20, 40)
    assert report.differences == 1
    assert report.first[0].at is not None
    assert timedelta(0) <= report.first[0].at - (START + 30 * SECOND) < SECOND
    assert report.decisions < 1_000
    assert between(tmp_path / "out", 30, 35, 40).agrees
    assert between(tmp_path / "before", 30, 0, 30).agrees


def test_a_lake_that_has_closed_nothing_is_right(tmp_path: Path) -> None:
    """The first minutes of a loop are no alarm."""
    stream = a_stream()
    lake = write_lake(stream, tmp_path)
    empty = LOOP.model_copy(update={"loop": "empty"})
    lake.create(empty)
    report = audit(lake, "empty", effort=WHOLE)
    assert report.agrees
    assert (report.records, report.decisions, report.feedback) == (0, 0, 0)


def two_versions(
    seed: int, corrections: tuple[int, int] = (0, 0)
) -> tuple[Shell, Loop, dict[str, dict[str, int]]]:
    """Return a stream whose loop changed on the way: the loop, and where it did."""
    rng = random.Random(seed)
    before, after = (seconds * SECOND for seconds in corrections)
    first = LOOP.model_copy(update={"corrections": before})
    stream = Shell(random_logs(rng, 120), JoinRules.of(first))
    for _ in range(12):
        stream.poll(rng.choice(LOGS), rng.choice((1, 5, 20)))
        if rng.random() < 0.5:
            stream.commit()
    stream.commit()
    frontier = stream.closed[-1].frontier if stream.closed else None
    begins: dict[str, dict[str, int]] = {
        log: {"begin/1": 0, "begin/2": stream.offsets[log]} for log in LOGS
    }
    begins["examples"] = {
        "begin/1": NOTHING_CLOSED,
        "begin/2": NOTHING_CLOSED if frontier is None else micros(frontier),
    }
    windows = {"click": Feedback(within=rng.choice((1, 6)) * SECOND, early=2 * SECOND)}
    feedback = {name: LOOP.feedback[name].model_copy(update={"within": each.within})
                for name, each in windows.items()} | {"buy": LOOP.feedback["buy"]}  # fmt: skip
    changes = {"version": 2, "feedback": feedback, "grace": rng.choice((0, 5)) * SECOND}
    changes["corrections"] = after
    second = LOOP.model_copy(update=changes)
    stream.rules = JoinRules.of(second)
    stream.start()
    stream.finish()
    return stream, second, begins


def test_each_row_is_measured_by_the_version_that_judged_it(tmp_path: Path) -> None:
    """A loop whose window was changed is no alarm, neither before the change nor at it."""
    unaware = 0
    for seed in range(8):
        stream, second, begins = two_versions(seed)
        loops = (LOOP, second)
        right = write_lake(stream, tmp_path / f"{seed}", loops=loops, begins=begins)
        report = audit(right, LOOP.loop, effort=WHOLE)
        assert report.agrees, (seed, [str(found) for found in report.first])
        assert report.decisions == stream.offsets[logs.DECISIONS]
        lost = {"decisions": {"begin/1": 0, "begin/2": 0}, "feedback": begins["feedback"]}
        lost["examples"] = {"begin/1": NOTHING_CLOSED, "begin/2": NOTHING_CLOSED}
        wrong = write_lake(stream, tmp_path / f"{seed}-lost", loops=loops, begins=lost)
        unaware += audit(wrong, LOOP.loop, effort=WHOLE).differences
    assert unaware > 0


@pytest.mark.parametrize("seed", [41, 71, 92])
def test_feedback_at_the_change_of_a_window_is_no_alarm(tmp_path: Path, seed: int) -> None:
    """What one version closed without it another counts by longer windows: nobody can tell."""
    stream, second, begins = two_versions(seed)
    lake = write_lake(stream, tmp_path, loops=(LOOP, second), begins=begins)
    report = audit(lake, LOOP.loop, effort=WHOLE)
    assert report.agrees, [str(found) for found in report.first]


@pytest.mark.soak
@pytest.mark.parametrize("corrections", [(0, 20), (20, 0), (10, 30)])
def test_corrections_across_versions_are_no_alarm(
    tmp_path: Path, corrections: tuple[int, int]
) -> None:
    """What one version closed another may correct, by windows of its own."""
    for seed in range(5):
        stream, second, begins = two_versions(seed, corrections)
        first = LOOP.model_copy(update={"corrections": corrections[0] * SECOND})
        lake = write_lake(stream, tmp_path / f"{seed}", loops=(first, second), begins=begins)
        report = audit(lake, LOOP.loop, effort=WHOLE)
        assert report.agrees, (seed, [str(found) for found in report.first])


@pytest.mark.parametrize("corrections", [0, 20])
def test_a_stream_that_a_version_adds_is_measured_from_its_first_record(
    tmp_path: Path, corrections: int
) -> None:
    """Most of its records belong to windows that have closed without it, and stay as they are."""
    taken = 0
    for seed in (0, 2, 5):
        rng = random.Random(seed)
        first = LOOP.model_copy(update={"corrections": corrections * SECOND})
        second = SHOP.model_copy(update={"version": 2, "corrections": corrections * SECOND})
        stream = Shell(random_logs(rng, 120, streams=True), JoinRules.of(first))
        for _ in range(rng.randint(2, 12)):
            stream.poll(rng.choice(LOGS), rng.choice((5, 20)))
            stream.commit()
        begins: dict[str, dict[str, int]] = {
            log: {"begin/1": 0, "begin/2": at} for log, at in stream.offsets.items()
        }
        begins[ORDERS] = {"begin/2": 0}
        reached = micros(stream.closed[-1].frontier) if stream.closed else NOTHING_CLOSED
        begins["examples"] = {"begin/1": NOTHING_CLOSED, "begin/2": reached}
        stream.raw[ORDERS], stream.offsets[ORDERS], stream.times[ORDERS] = [], 0, None
        stream.rules = JoinRules.of(second)
        stream.start()
        stream.finish()
        lake = write_lake(stream, tmp_path / f"{seed}", loops=(first, second), begins=begins)
        report = audit(lake, LOOP.loop, effort=WHOLE)
        assert report.agrees, (seed, [str(found) for found in report.first])
        taken += int((stream.examples()["feedback_offsets"].list.max() >= OFFSETS).sum())
    assert taken > 0, "none of its records would be compared"


def test_a_lake_on_s3_is_audited_and_traced_as_well(s3: LakeConfig) -> None:
    """DuckDB reads it through Arrow there, and files are found by other means."""
    stream = a_stream()
    row = a_joined_row(stream)
    wrong = stream.examples().row(row, named=True)
    lake = write_lake(stream, s3, spoil={"examples": at(row, state="no_feedback")})
    (found,) = audit(lake, LOOP.loop, effort=WHOLE).first
    assert (found.id, found.offset, found.column) == (
        wrong["decision_id"],
        wrong["offset"],
        "state",
    )
    life = trace(lake, LOOP, str(wrong["decision_id"]), bucket=SECOND)
    assert all(each.file for each in (*life.decisions, *life.feedback, *life.examples))
    assert {curve.kind for curve in label_lags(lake, LOOP)} == LOOP.feedback.keys()


@pytest.mark.parametrize("effort", [WHOLE, Effort(rows=2, threads=1, memory_mb=256)])
def test_three_streams_in_one_join_are_audited_each_by_its_own_log(
    tmp_path: Path, effort: Effort
) -> None:
    """Purchases lie behind all clicks in the table, and before them in time."""
    report = audit(write_streams(tmp_path), SHOP.loop, effort=effort)
    assert report.agrees, [str(found) for found in report.first]
    assert report.records == len([*DECISIONS, *CLICKS, *BUYS])
    assert (report.decisions, report.feedback) == (2, 7)


def test_a_difference_in_a_stream_is_told_as_people_know_it(tmp_path: Path) -> None:
    """The offset is that of its topic, and so are those that an example has."""
    spoil = {ORDERS: at(2, stream_time=None), "examples": at(1, label=5.0)}
    lake = write_streams(tmp_path, spoil=spoil)
    orders, example = audit(lake, SHOP.loop, effort=WHOLE).first[::-1]
    assert orders.record == f"feedback v of stream orders, partition {PARTITION}, offset 2"
    assert orders.column == "stream_time"
    assert example.column == "label"
    lone = at(1, feedback_offsets=pl.col("feedback_offsets").list.head(1))
    lake = write_streams(tmp_path / "lone", spoil={"examples": lone})
    (found,) = audit(lake, SHOP.loop, effort=WHOLE).first
    assert found.columns["feedback_offsets"] == ("[1]", "[1, orders 2]")
