"""Activation: decisions count only once a feedback says that they took effect."""

import random

import pytest
from tests.streams.join_logs import (
    LOOP,
    SECOND,
    START,
    D,
    F,
    Logs,
    Shell,
    assert_agrees,
    assert_conserved,
    item_rules,
    joined,
    play,
    played,
    random_logs,
    rules,
    states,
)

from tidemill.schemas.loop.definition import Label
from tidemill.streams.join.partition_join import Counts
from tidemill.streams.join.rules import JoinRules

SHOWN = rules(activation="buy")
"""In these tests a `buy` is what says that the decision was shown."""


def test_a_decision_that_was_never_shown_is_no_example_to_learn_from() -> None:
    """Nobody can click what was not shown: no feedback is a negative only for a shown decision."""
    shell = played(
        [D("shown", 0), D("unseen", 0), D("clicked", 0)],
        [F("u", "shown", 1, "buy"), F("v", "clicked", 2, "buy"), F("w", "clicked", 3)],
        SHOWN,
    )
    assert states(shell) == {
        "shown": "no_feedback",
        "unseen": "not_activated",
        "clicked": "labeled",
    }
    assert shell.examples()["label"].to_list() == [0.0, None, 1001.0]
    assert joined(shell) == {"shown": [0], "unseen": [], "clicked": [1, 2]}


@pytest.mark.parametrize("missing", ["negative", "censored", "dropped"])
def test_feedback_of_a_decision_that_was_not_shown_does_not_count(missing: str) -> None:
    """A click without a view is joined and counted, and gives no label."""
    shell = played([D("a", 0)], [F("x", "a", 1)], rules(activation="buy", missing=missing))
    assert (states(shell), joined(shell)) == ({"a": "not_activated"}, {"a": [0]})
    assert shell.examples()["label"].to_list() == [None]


@pytest.mark.parametrize(("at", "state"), [(8, "labeled"), (9, "not_activated")])
def test_an_activation_has_to_come_in_the_window_of_its_kind(at: int, state: str) -> None:
    """The window of an activation is like any other: both ends are included."""
    shell = played([D("a", 0)], [F("x", "a", 1), F("y", "a", at, "buy")], SHOWN)
    assert states(shell) == {"a": state}


def test_an_activation_that_comes_late_activates_nothing() -> None:
    """Its log decides whether it is on time, not the time at which it happened."""
    shell = played([D("a", 0)], [F("w", "z", 11), F("x", "a", 1, "buy")], SHOWN)
    assert states(shell) == {"a": "not_activated"}
    assert shell.closed[-1].counts == Counts(late=1, unmatched=1)


def test_a_label_may_count_from_the_activation() -> None:
    """The time that people take to click starts when they see the item."""
    label = Label(sql="min(epoch(at) - epoch(activated_at))", type="float")
    loop = LOOP.model_copy(update={"label": label, "activation": "buy"})
    feedback = [F("x", "a", 3), F("y", "a", 2, "buy"), F("z", "a", 1, "buy")]
    shell = Shell(Logs([D("a", 0)], feedback), JoinRules.of(loop))
    shell.finish()
    assert shell.examples()["label"].to_list() == [2.0]
    assert shell.examples()["first_feedback_at"].to_list() == [START + 3 * SECOND]


@pytest.mark.parametrize("items", [False, True], ids=["actions", "items"])
@pytest.mark.parametrize("seed", range(20))
def test_activation_agrees_with_the_oracle(seed: int, items: bool) -> None:
    """For any logs, polls and crashes, the oracle computes the same activations, of each item."""
    rng = random.Random(seed)
    missing = rng.choice(("negative", "censored", "dropped"))
    chosen = (item_rules if items else rules)(activation="buy", missing=missing)
    shell = Shell(random_logs(rng, 60, items=items), chosen)
    play(shell, rng)
    assert_agrees(shell)
    assert_conserved(shell)
