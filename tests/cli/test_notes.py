"""A loop that cannot learn is legal, so somebody has to say that it cannot, and what to write."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.schemas.loops import ITEMS, with_items
from tests.serving.models import banner

from tidemill.cli.commands.loop import TEMPLATE
from tidemill.cli.notes import notes, warnings
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.loop_file import load_loop

CHOICE = {"type": "choice", "actions": ["a", "b", "c"], "default": "a"}
BOOL: dict[str, Any] = {"decision": {"type": "bool", "default": False}}
ACTION = {"sql": "max(seconds) > 3", "depends_on": "action"}
WORLD = {"sql": "max(seconds) > 3", "depends_on": "world"}


def loop(policy: object, **changes: object) -> Loop:
    """Return a loop with *policy*, by default a choice of three."""
    return banner(**({"decision": CHOICE} | changes), policy=policy)


EXPLORED: dict[str, Any] = {"policy": {"kind": "greedy", "epsilon": 0.1}}
WIDE = {f"number_{number}": "float" for number in range(200)}


def items(kind: str = "choice", policy: object = None, **settings: object) -> Loop:
    """Return a loop whose requests bring items."""
    decision = {"type": kind, "items": {**ITEMS, **settings}}
    return with_items(kind, decision=decision, policy=policy or {"kind": "greedy"})


def test_a_loop_with_usual_items_is_not_warned_about() -> None:
    """Two hundred articles with some features each fit into a record and a body."""
    for kind in ("choice", "ranking"):
        assert warnings(items(kind, max=200, **EXPLORED)) == []
    later = items(**EXPLORED).model_copy(update={"version": 2})
    assert warnings(later) == []


def test_the_template_of_init_learns_and_leaves_nothing_open() -> None:
    """It is the first loop of everybody, and the pattern of the second."""
    with_template = files("tidemill.cli").joinpath(TEMPLATE)
    found = load_loop(Path(str(with_template)))
    assert (warnings(found), notes(found)) == ([], [])
    assert found.policy.epsilon


@pytest.mark.parametrize(
    ("found", "what", "hint"),
    [
        (loop({"kind": "greedy"}), "every decision is 'a'", "epsilon: 0.1"),
        (loop({"kind": "softmax"}), "every decision is 'a'", "epsilon: 0.1"),
        (loop({"kind": "threshold"}, **BOOL, label=ACTION), "every decision is False", "epsilon"),
        (
            loop({"kind": "threshold"}, **BOOL, activation="left"),
            "'left' feedback never comes",
            "epsilon: 0.1",
        ),
        (
            loop({"kind": "greedy", "epsilon": 0.1}, learning="apprentice"),
            "0.1 has no effect",
            "learning: on",
        ),
        (
            loop({"kind": "greedy", "epsilon": 0.1}, models={"batch": None}),
            "explores for nobody",
            "batch",
        ),
        (loop({"kind": "greedy", "epsilon": 1.0}), "no model ever decides", "decay: 10000"),
        (items(), "every decision is what the request brings first", "epsilon: 0.1"),
        (items("ranking"), "every decision is what the request brings first", "epsilon: 0.1"),
        (items(log="shown", **EXPLORED), "that were not shown", "log: all"),
        (items(features=WIDE, max=1_000, **EXPLORED), "about 1,850,000 bytes, over", "max: 486"),
        (items(features=WIDE, max=400, **EXPLORED), "bytes of JSON", "BODY_BYTES=5088000"),
    ],
)
def test_a_loop_that_cannot_learn_is_told_why_and_what_to_write(
    found: Loop, what: str, hint: str
) -> None:
    """Twenty thousand decisions later somebody would find out by himself."""
    (warning,) = warnings(found)
    assert what in warning.what
    assert hint in warning.hint


@pytest.mark.parametrize(
    "found",
    [
        loop({"kind": "greedy", "epsilon": 0.1}),
        loop({"kind": "greedy", "epsilon": 1.0, "decay": 100}),
        loop({"kind": "greedy"}, learning="apprentice"),
        loop({"kind": "threshold"}, **BOOL, label=WORLD),
        loop({"kind": "threshold", "epsilon": 0.1}, **BOOL, activation="left"),
    ],
)
def test_a_loop_that_learns_is_left_alone(found: Loop) -> None:
    """A warning that is always there is read by nobody."""
    assert warnings(found) == []
