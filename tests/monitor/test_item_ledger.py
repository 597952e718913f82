"""The ledger where decisions bring items: it counts decisions, and feedback that no item takes."""

from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import PARTITION, Spoil
from tests.features.itemlakes import COUNTS, PAGE, write_items

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.monitor.ledger import Account, is_balanced, ledger


def accounts(lake: Lake) -> tuple[Account, Account]:
    """Return the accounts of the partition that has rows: of decisions, and of feedback."""
    decisions, feedback = (one for one in ledger(lake, PAGE) if one.partition == PARTITION)
    return decisions, feedback


def test_a_decision_counts_once_however_many_items_it_has_shown(tmp_path: Path) -> None:
    """Ten rows of one decision are no ten decisions, and the books must close."""
    decisions, feedback = accounts(write_items(tmp_path))
    assert (decisions.read, decisions.open) == (5, 1)
    ends = {name: count for name, count in decisions.ends.items() if count}
    assert ends == {"labeled": 1, "no_feedback": 2, "duplicate": 1}
    assert (feedback.read, feedback.open) == (10, 1)
    ends = {name: count for name, count in feedback.ends.items() if count}
    assert ends == {"joined": 3, "late": 1, "duplicate": 1, "unmatched": 1, "unknown_item": 3}
    assert is_balanced([decisions, feedback])
    assert feedback.to_json()["ends"] == dict(feedback.ends)


def state_of(*states: str) -> Spoil:
    """Return what gives the items of the first decision these *states*."""
    named = pl.Series("state", [*states, "no_feedback", "no_feedback"])
    return lambda rows: rows.with_columns(named)


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (("no_feedback", "labeled"), "labeled"),
        (("label_error", "labeled"), "labeled"),
        (("not_activated", "no_feedback"), "no_feedback"),
        (("not_activated", "censored"), "censored"),
        (("label_error", "not_activated"), "not_activated"),
        (("label_error", "label_error"), "label_error"),
    ],
)
def test_the_state_of_a_decision_is_the_best_known_of_its_items(
    states: tuple[str, str], state: str, tmp_path: Path
) -> None:
    """Something was learned from it if there is a label for any of its items."""
    decisions, _ = accounts(write_items(tmp_path, spoil={EXAMPLES: state_of(*states)}))
    others = {"no_feedback": 2}
    ends = {name: count for name, count in decisions.ends.items() if count}
    assert ends == {"duplicate": 1} | others | {state: others.get(state, 0) + 1}
    assert decisions.is_balanced


def test_an_unknown_item_that_nobody_counted_is_a_difference(tmp_path: Path) -> None:
    """The balance must close exactly, and a count that is missing must show."""
    lake = write_items(tmp_path, counts={**COUNTS, "unknown_item": 1})
    _, feedback = accounts(lake)
    assert (feedback.difference, feedback.is_balanced) == (2, False)


def test_a_decision_that_has_lost_all_of_its_rows_is_a_difference(tmp_path: Path) -> None:
    """A row for a decision that has shown nothing is there for this."""
    decisions, _ = accounts(write_items(tmp_path, spoil={EXAMPLES: lambda rows: rows[:3]}))
    assert (decisions.difference, decisions.is_balanced) == (1, False)
