"""The views of a loop whose requests bring items."""

from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import Spoil, write_lake
from tests.features.itemlakes import DECIDED, DECISION_STATES, PAGE, STATES, write_items
from tests.streams.join_logs import SECOND, WITH_ITEMS, D, F, Logs, Shell

from tidemill.features.audit.audit import audit
from tidemill.features.audit.differences import differences
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.revisions import newest_rows
from tidemill.features.sql.views import connect
from tidemill.streams.join.rules import JoinRules


def test_views_tell_decisions_and_feedback_as_the_rules_do(tmp_path: Path) -> None:
    """A decision has one state however many items it has shown."""
    with connect(write_items(tmp_path)) as connection:
        rows = connection.execute('SELECT "offset", state FROM feedback_states').fetchall()
        assert dict(rows) == STATES
        decisions = connection.execute(
            'SELECT "offset", state, shown, labeled FROM decision_states ORDER BY 1'
        ).fetchall()
        assert {offset: state for offset, state, *_ in decisions} == DECISION_STATES
        nothing = (None, None)
        assert [row[2:] for row in decisions] == [(2, 2), (1, 0), (0, 0), nothing, nothing]
        assert differences(connection, PAGE, "page", idle=False).is_empty()


def test_every_logged_item_is_a_row_of_the_view_items(tmp_path: Path) -> None:
    """Whoever wants to know what was not shown needs no unnest."""
    with connect(write_items(tmp_path)) as connection:
        rows = connection.execute(
            'SELECT decision_id, item, item_propensity, "position" FROM items ORDER BY "offset"'
        ).fetchall()
        joined = connection.execute(
            """
            SELECT i.item, i.item_features.price, e.label
            FROM items i JOIN examples e USING ("partition", "offset", item, "position")
            ORDER BY ALL
            """
        ).fetchall()
    told = [(id_, *item) for id_, _, items in DECIDED for item in items or ()]
    assert sorted(rows, key=str) == sorted(told, key=str)
    assert joined == [("p", 112.0, 4.0), ("q", 113.0, 0.0), ("q", 113.0, 6.0)]


def test_the_view_examples_has_a_row_for_each_shown_item(tmp_path: Path) -> None:
    """And one without an item for a decision that has shown none."""
    with connect(write_items(tmp_path)) as connection:
        rows = connection.execute(
            'SELECT decision_id, "position", item, state FROM examples ORDER BY "offset", 2'
        ).fetchall()
    assert rows == [
        ("a", 0, "p", "labeled"),
        ("a", 1, "q", "labeled"),
        ("b", 0, "q", "no_feedback"),
        ("c", None, None, "no_feedback"),
    ]


CORRECTED = WITH_ITEMS.model_copy(update={"corrections": 40 * SECOND})


def corrected(folder: Path, spoil: Spoil = lambda rows: rows) -> Lake:
    """Return a lake where late feedback has revised the second of two items, and not the first."""
    decisions = [D("a", 0, (("p", 0), ("q", 1))), D("o", 20)]
    feedback = [
        *(F("f1", "a", 1, value=3.0, item="p"), F("x", "o", 20)),
        F("f2", "a", 2, value=5.0, item="q"),  # at 20 the close time of a, 10, is past
    ]
    stream = Shell(Logs(decisions, feedback), JoinRules.of(CORRECTED))
    stream.finish()
    return write_lake(stream, folder, loops=[CORRECTED], spoil={"examples": spoil})


def test_a_revision_of_one_item_hides_no_other(tmp_path: Path) -> None:
    """Both have revisions of their own, and readers in SQL and in columns see the same."""
    lake = corrected(tmp_path)
    with connect(lake) as connection:
        rows = connection.execute(
            """SELECT item, revision, label FROM examples WHERE decision_id = 'a' ORDER BY 1"""
        ).fetchall()
        (every,) = connection.execute(
            "SELECT count(*) FROM example_revisions WHERE decision_id = 'a'"
        ).fetchall()
        states = connection.execute(
            "SELECT state, shown, labeled, revision FROM decision_states WHERE id = 'a'"
        ).fetchall()
    assert rows == [("p", 0, 3003.0), ("q", 1, 5005.0)]
    assert every == (3,)
    assert states == [("labeled", 2, 2, 1)]
    newest = newest_rows(lake.table(CORRECTED.loop, "examples").scan()).collect()
    ours = newest.filter(decision_id="a").sort("item").select("item", "revision", "label").rows()
    assert ours == rows
    assert newest.height == 3, "the one without an item too"


@pytest.mark.slow
def test_a_superseded_revision_of_an_item_that_was_removed_is_a_loss(tmp_path: Path) -> None:
    """The first revision of the other item does not stand for it."""
    assert audit(corrected(tmp_path / "whole"), CORRECTED.loop).agrees
    first = (pl.col("item") == "q") & (pl.col("revision") == 0)
    kept = corrected(tmp_path / "lost", lambda rows: rows.filter(first.not_() | first.is_null()))
    (loss,) = audit(kept, CORRECTED.loop).losses
    assert "1 superseded revision was removed, of decisions a" in loss.what
