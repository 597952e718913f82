"""The views of a loop whose requests bring items."""

from pathlib import Path

from tests.features.itemlakes import DECIDED, DECISION_STATES, PAGE, STATES, write_items

from tidemill.features.audit.differences import differences
from tidemill.features.sql.views import connect


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
            FROM items i JOIN examples e USING ("partition", "offset", "position") ORDER BY ALL
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
