"""Readers of examples: the newest revision by default, every one by version, and books that add up.

The lakes are written by the join itself, from logs with late feedback, crashes and idle advances.
"""

import random
from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import PARTITION, write_lake
from tests.streams.join_logs import LOOP, SECOND, D, F, Logs, Shell, play, random_logs

from tidemill.features.audit.audit import Effort, audit
from tidemill.features.audit.differences import differences
from tidemill.features.lake.lake import CompareAndSwap, Lake, Table
from tidemill.features.sql.datasets import training_set
from tidemill.features.sql.revisions import has_revisions, newest_rows
from tidemill.features.sql.views import connect, schema_name
from tidemill.monitor.ledger import is_balanced, ledger
from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.streams.join.rules import JoinRules
from tidemill.trainers.commit_log import commits_after, count_labels

pytestmark = pytest.mark.slow  # each plays a stream and audits it

CORRECTED = LOOP.model_copy(update={"corrections": 20 * SECOND})
RULES = JoinRules.of(CORRECTED)


@pytest.mark.parametrize("seed", range(6))
def test_oracle_audit_and_ledger_agree_with_a_stream_that_corrects(
    seed: int, tmp_path: Path
) -> None:
    """Three ways to look at one lake, and each record is in one place in all of them."""
    rng = random.Random(seed)
    stream = Shell(random_logs(rng, 80), RULES)
    play(stream, rng)
    lake = write_lake(stream, tmp_path, loops=[CORRECTED])
    with connect(lake) as connection:
        found = differences(connection, CORRECTED, schema_name(LOOP.loop))
        ends = connection.sql(
            "SELECT replace(state, 'misplaced', 'unmatched'), count(*) "
            "FROM feedback_states GROUP BY ALL"
        ).fetchall()
    assert found.is_empty(), found.to_dicts()
    report = audit(lake, CORRECTED.loop, effort=Effort(threads=1))
    assert report.agrees, [str(each) for each in report.first]
    accounts = [each for each in ledger(lake, CORRECTED) if each.partition == PARTITION]
    assert is_balanced(accounts)
    assert {name: count for name, count in accounts[1].ends.items() if count} == dict(ends)


def corrected_twice(folder: Path, spoil: pl.Expr | None = None) -> tuple[Lake, list[int]]:
    """Return a lake in which `a` was corrected from silence to 4, then to 5; and its versions.

    `b` has no late feedback. *spoil* changes columns of the last revision.
    """
    feedback = [F("w", "z", 15), F("x", "a", 1, value=4.0), F("y", "a", 2, value=1.0)]
    stream = Shell(Logs([D("a", 0), D("b", 0), D("z", 15)], feedback), RULES)
    stream.poll(DECISIONS, 3)
    for _ in feedback:
        stream.poll(FEEDBACK, 1)
        stream.commit()
    first, *more = stream.closed
    stream.closed = [first]
    lake = write_lake(stream, folder, loops=[CORRECTED])
    table = lake.table(LOOP.loop, "examples")
    place = {"topic": pl.lit("shop"), "partition": pl.lit(PARTITION, dtype=pl.Int32)}
    versions = [table.version()]
    known = first
    for closed in more:
        frame = closed.examples.with_columns(**place)
        is_last = closed is more[-1]
        numbers = [("examined", known.examined[FEEDBACK], closed.examined[FEEDBACK])]
        numbers += [("revised", known.revised, closed.revised)]
        versions.append(
            table.append(
                frame.with_columns(spoil) if spoil is not None and is_last else frame,
                swaps=[
                    CompareAndSwap(f"{name}/{PARTITION}", old, new) for name, old, new in numbers
                ],
            )
        )
        known = closed
    return lake, versions


def labels(lake: Lake, version: int | None = None) -> dict[str, float]:
    """Return the labels of a training set by decision id."""
    made = training_set(lake, CORRECTED, version=version)
    ids, found = made.table["decision_id"].to_pylist(), made.table["label"].to_pylist()
    return dict(zip(ids, found, strict=True))


def test_readers_see_the_newest_revision_and_earlier_ones_by_version(tmp_path: Path) -> None:
    """A model names the version it learned from, so what it learned can always be read again."""
    lake, versions = corrected_twice(tmp_path)
    seen = [labels(lake, version) for version in versions]
    assert seen == [{"a": 0.0, "b": 0.0}, {"a": 4004.0, "b": 0.0}, {"a": 4005.0, "b": 0.0}]
    assert labels(lake) == seen[-1]


def test_the_views_show_the_newest_and_keep_the_rest_at_hand(tmp_path: Path) -> None:
    """`examples` has one row a decision, as it always had."""
    lake, _ = corrected_twice(tmp_path)
    with connect(lake) as connection:

        def ask(sql: str) -> list[tuple[object, ...]]:
            return connection.sql(sql).fetchall()

        assert ask("SELECT decision_id, revision FROM examples ORDER BY ALL") == [
            ("a", 2),
            ("b", 0),
        ]
        assert ask("SELECT count(*) FROM example_revisions") == [(4,)]
        assert ask("SELECT id, label, revision FROM decision_states WHERE state <> 'open'"
                   " ORDER BY ALL") == [("a", 4005.0, 2), ("b", 0.0, 0)]  # fmt: skip
        assert ask("SELECT id, state FROM feedback_states ORDER BY ALL") == [
            ("w", "open"),
            ("x", "corrected"),
            ("y", "corrected"),
        ]


@pytest.mark.parametrize(
    ("spoil", "column"),
    [
        (pl.col("label") + 1, "label"),
        (pl.lit(7, dtype=pl.Int32).alias("revision"), "revision"),
        (pl.col("feedback_offsets").list.head(1), "feedback_offsets"),
    ],
    ids=["a label that is off by one", "a number too high", "feedback left out"],
)
def test_a_wrong_revision_is_found(tmp_path: Path, spoil: pl.Expr, column: str) -> None:
    """A check that cannot go red proves nothing."""
    lake, _ = corrected_twice(tmp_path / "right")
    with connect(lake) as connection:
        assert differences(connection, CORRECTED, schema_name(LOOP.loop)).is_empty()
    assert audit(lake, CORRECTED.loop, effort=Effort(threads=1)).agrees
    lake, _ = corrected_twice(tmp_path / "wrong", spoil)
    with connect(lake) as connection:
        found = differences(connection, CORRECTED, schema_name(LOOP.loop))
    assert found.filter(pl.col(column).ne_missing(pl.col(f"{column}_found"))).height == 1
    (difference,) = audit(lake, CORRECTED.loop, effort=Effort(threads=1)).first
    assert column in difference.columns


def test_learners_in_batch_count_the_newest_and_online_ones_learn_the_first(
    tmp_path: Path,
) -> None:
    """What a linear model has learned cannot be unlearned, and nothing is learned twice."""
    lake, versions = corrected_twice(tmp_path)
    table = lake.table(LOOP.loop, "examples")
    seen = count_labels(table, CORRECTED)
    assert (seen.labels, seen.revised) == (2, 1)
    followed = list(commits_after(table, -1, _never))
    assert [sorted(rows["decision_id"]) for _, rows in followed] == [["a", "b"], [], []]
    assert [version for version, _ in followed] == versions
    assert newest_rows(table.scan()).collect()["label"].sort().to_list() == [0.0, 4005.0]


def _never() -> pl.Series:
    raise AssertionError("the log goes back far enough")


def test_a_table_without_revisions_is_read_as_it_always_was(tmp_path: Path) -> None:
    """Loops that want no corrections pay for none."""
    stream = Shell(Logs([D("a", 0)], [F("x", "a", 1)]))
    stream.finish()
    lake = write_lake(stream, tmp_path)
    assert not has_revisions(_examples(lake), LOOP)
    with connect(lake) as connection:
        plan = connection.sql("EXPLAIN SELECT count(*) FROM examples").fetchall()
    assert "Join" not in str(plan)


def test_a_table_with_revisions_says_so_from_the_version_that_has_them(tmp_path: Path) -> None:
    """The negative control: the same question, where there is something to leave out."""
    lake, versions = corrected_twice(tmp_path)
    told = [has_revisions(_examples(lake), CORRECTED, version) for version in versions]
    assert told == [False, True, True]
    with connect(lake) as connection:
        plan = connection.sql("EXPLAIN SELECT count(*) FROM examples").fetchall()
    assert "Join" in str(plan)


def _examples(lake: Lake) -> Table:
    return lake.table(LOOP.loop, "examples")
