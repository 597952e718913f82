"""Decisions with items: an example for each that was shown, whatever feedback names."""

from datetime import timedelta

import polars as pl
import pytest
from tests.streams.join_logs import (
    ITEM_RULES,
    LOGS,
    D,
    F,
    Logs,
    Shell,
    assert_agrees,
    assert_conserved,
    decision_frame,
    item_rules,
    played,
)

from tidemill.schemas.events.schemas import items_type
from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.schemas.loop.definition import Items
from tidemill.streams.join.checkpoints import conformed
from tidemill.streams.join.corrections import Recalled
from tidemill.streams.join.partition_join import Counts
from tidemill.streams.join.shown_items import ShownItems

TWO = (("tea", 0), ("milk", 1), ("salt", None))
CORRECTED = item_rules(corrections=timedelta(seconds=20))
Found = dict[tuple[str, str | None], list[int]]


def joined(shell: Shell) -> Found:
    """Return the feedback of the newest revision of each example, by decision and item."""
    columns = shell.examples().select("decision_id", "item", "feedback_offsets")
    return {(decision, item): offsets for decision, item, offsets in columns.rows()}


def corrected_later(decisions: list[D], feedback: list[F]) -> Shell:
    """Close *decisions* before the last of *feedback*, which is late, is read."""
    shell = Shell(Logs(decisions, feedback), CORRECTED)
    shell.poll(DECISIONS, len(decisions))
    shell.poll(FEEDBACK, len(feedback) - 1)
    shell.advance(DECISIONS, 15)
    shell.commit()
    assert shell.closed, "the rest comes after the close"
    shell.finish()
    assert_agrees(shell)
    return shell


def test_feedback_counts_for_the_item_that_it_names_or_for_all_that_were_shown() -> None:
    """A click is on one article; that the page was read through is about all of them."""
    feedback = [F("x", "a", 1, item="milk"), F("y", "a", 2), F("z", "b", 2, item="tea")]
    shell = played([D("a", 0, TWO), D("b", 0, TWO)], feedback, ITEM_RULES)
    assert joined(shell) == {
        ("a", "tea"): [1],
        ("a", "milk"): [0, 1],
        ("b", "tea"): [2],
        ("b", "milk"): [],
    }
    assert shell.examples()["position"].to_list() == [0, 1, 0, 1]


@pytest.mark.parametrize("item", ["salt", "unheard-of"])
def test_feedback_for_an_item_that_was_not_shown_is_counted_and_joins_nothing(item: str) -> None:
    """A service that confuses its ids has to see that, and must not spoil any label."""
    shell = played([D("a", 0, TWO)], [F("x", "a", 1, item=item)], ITEM_RULES)
    assert joined(shell) == {("a", "tea"): [], ("a", "milk"): []}
    assert shell.closed[-1].counts == Counts(unknown_item=1)


def test_each_record_of_an_unknown_item_counts_and_makes_no_copy_of_another() -> None:
    """Otherwise a restart, which has forgotten the first, would judge the second differently."""
    feedback = [
        F("x", "a", 1, item="salt"),
        F("x", "a", 1, item="salt"),
        F("x", "a", 1, item="tea"),
    ]
    shell = played([D("a", 0, TWO)], [*feedback, F("x", "a", 1, item="milk")], ITEM_RULES)
    assert joined(shell) == {("a", "tea"): [2], ("a", "milk"): []}
    assert shell.closed[-1].counts == Counts(unknown_item=2, duplicate=1)


def test_a_decision_that_has_shown_nothing_has_one_row_that_no_feedback_falls_on() -> None:
    """Every decision read ends in a state, so that the ledger adds up."""
    nothing = [D("none", 0), D("hidden", 0, (("tea", None),))]
    shell = played(nothing, [F("x", "hidden", 1), F("y", "none", 1, item="tea")], ITEM_RULES)
    assert joined(shell) == {("none", None): [], ("hidden", None): []}
    row = shell.examples().row(0, named=True)
    assert [row[name] for name in ("position", "item_propensity", "item_features")] == [None] * 3
    assert shell.closed[-1].counts == Counts(unknown_item=2)


def test_of_several_items_at_one_position_the_first_is_the_shown_one() -> None:
    """A place shows one thing. An item at two places is clicked at both, if nobody says where."""
    items = (("milk", 3), ("tea", 1), ("salt", 1), ("milk", 0))
    feedback = [F("x", "a", 1, item="milk"), F("y", "a", 1, item="salt")]
    shell = played([D("a", 0, items)], feedback, ITEM_RULES)
    rows = shell.examples().select("position", "item", "feedback_offsets").rows()
    assert rows == [(0, "milk", [0]), (1, "tea", []), (3, "milk", [0])]


def test_late_feedback_revises_the_item_that_it_names_and_no_other() -> None:
    """A purchase a week later is of one thing; the others were not bought."""
    feedback = [F("w", "z", 15), F("x", "a", 2, item="milk"), F("y", "a", 2, item="salt")]
    shell = played([D("a", 0, TWO)], feedback, CORRECTED)
    written = shell.revisions().select("item", "revision", "feedback_offsets").rows()
    assert written == [("tea", 0, []), ("milk", 0, []), ("milk", 1, [1])]
    assert shell.closed[-1].counts == Counts(unmatched=1, unknown_item=1)


def test_late_feedback_of_a_decision_that_has_shown_nothing_revises_nothing() -> None:
    """Its row is there to be counted; what it says does not change."""
    shell = corrected_later([D("a", 0)], [F("w", "z", 15), F("x", "a", 2)])
    assert shell.revisions()["revision"].to_list() == [0]
    assert shell.closed[-1].counts == Counts(unmatched=1, unknown_item=1)


def test_a_late_copy_is_a_copy_whichever_item_it_names() -> None:
    """An id is one feedback of its decision; that it names another item does not make it two."""
    feedback = [F("x", "a", 2, item="tea"), F("w", "z", 15), F("x", "a", 2, item="milk")]
    shell = corrected_later([D("a", 0, TWO)], feedback)
    assert joined(shell) == {("a", "tea"): [0], ("a", "milk"): []}
    assert shell.closed[-1].counts == Counts(duplicate=1, unmatched=1)


def test_open_rows_are_decisions_until_the_close() -> None:
    """Memory, spilling and recovery do not grow with what was shown."""
    shell = Shell(Logs([D(f"d{number}", 0, TWO) for number in range(50)], []), ITEM_RULES)
    shell.poll(LOGS[0], 50)
    assert shell.join.open_decisions == 50
    shell.finish()
    assert len(shell.examples()) == 100
    assert_agrees(shell)


def test_a_restart_asks_the_lake_only_about_feedback_that_no_example_has() -> None:
    """Nearly all feedback is joined or waits; then a restart reads no closed decision."""
    asked: list[list[str]] = []

    class Asking(Shell):
        def _recall(self, wanted: pl.DataFrame) -> Recalled:
            asked.append(wanted["decision_id"].to_list())
            return super()._recall(wanted)

    decisions = [D("a", 0, TWO), D("b", 4, TWO), D("end", 12, TWO)]
    feedback = [F("x", "a", 2, item="tea"), F("y", "b", 5, item="tea"), F("z", "end", 12)]
    shell = Asking(Logs(decisions, feedback), ITEM_RULES)
    for log in LOGS:
        shell.poll(log, 3)
    shell.commit()
    shell.start()
    assert len(shell.examples()) == 2, "only a is closed"
    assert asked == []
    feedback[0] = F("x", "a", 2, item="salt")
    again = Asking(Logs(decisions, feedback), ITEM_RULES)
    for log in LOGS:
        again.poll(log, 3)
    again.commit()
    again.start()
    assert asked == [["a"]]
    assert_conserved(again)
    again.finish()
    assert again.closed[-1].counts == Counts(unknown_item=1)


def test_open_decisions_of_an_older_version_have_the_new_features_of_items_as_nulls() -> None:
    """A new version goes on with the windows that the old one has opened."""
    wider = Items.model_validate(
        {"features": {"size": "float", "tags": "categories", "on": {"type": "bool"}}}
    )
    schema = pl.Schema({**ITEM_RULES.decisions, "items": items_type(wider)})
    old = decision_frame([D("a", 0, TWO), D("b", 0)], schema=ITEM_RULES.decisions)
    rows = ShownItems.of(conformed(old, schema, "offset")).rows
    assert rows["item"].to_list() == ["tea", "milk", None]
    size = {"tags": None, "on": None}
    assert rows["item_features"].to_list()[:2] == [{"size": 3.0, **size}, {"size": 4.0, **size}]
    back = conformed(conformed(old, schema, "offset"), ITEM_RULES.decisions, "offset")
    assert back.equals(old)


def test_an_example_of_one_item_does_not_repeat_the_order_of_all() -> None:
    """A page of 200 items would hold 40,000 names; the row of the decision has them once."""
    shell = played([D("a", 0, TWO)], [], ITEM_RULES)
    assert shell.examples()["action"].to_list() == [None, None]
    raw = decision_frame([D("a", 0, TWO)], schema=ITEM_RULES.decisions)
    assert raw["action"].to_list() == [["tea", "milk"]]
    chosen = raw.with_columns(action=pl.lit("tea"))
    assert ShownItems.of(chosen).rows["action"].to_list() == ["tea", "tea"]
