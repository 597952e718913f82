"""Variants of a loop: one thing changed, everything that follows from it with it."""

from datetime import timedelta
from typing import Any

import pytest
from tests.schemas.loops import minimal

from tidemill.errors import LoopError, RequestError
from tidemill.streams.reprocess.variants import variant

LOOP = minimal()
KIND = next(iter(LOOP.feedback))


def test_a_variant_without_a_change_is_the_loop_itself() -> None:
    """So the first backfill anybody makes is the live one again."""
    assert variant(LOOP) == LOOP
    assert variant(LOOP).digest == LOOP.digest


def test_windows_and_grace_are_changed_by_kind() -> None:
    """Written as in a loop file."""
    changed = variant(LOOP, within={KIND: "3h"}, early={KIND: "5s"}, grace="90s")
    assert changed.feedback[KIND].within == timedelta(hours=3)
    assert changed.feedback[KIND].early == timedelta(seconds=5)
    assert changed.grace == timedelta(seconds=90)
    assert changed.features == LOOP.features


def test_another_type_of_label_brings_its_metric_along() -> None:
    """A loop completes its gate from its label; the old completion must not forbid the new one."""
    changed = variant(LOOP, label="count(*)", label_type="float", missing="dropped")
    assert (changed.label.type, changed.label.missing) == ("float", "dropped")
    assert changed.gate.metric == "mse"


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"within": {"nothing": "1h"}}, RequestError, "no feedback 'nothing'"),
        ({"within": {KIND: "soon"}}, LoopError, "not a duration"),
        ({"within": {KIND: "0s"}}, LoopError, "within is zero"),
        ({"label": "sum("}, LoopError, "not SQL"),
        ({"label": "1"}, LoopError, "the same for every decision"),
    ],
)
def test_what_would_be_no_loop_is_refused(
    changes: dict[str, Any], kind: type[Exception], told: str
) -> None:
    """By the same checks as a file."""
    with pytest.raises(kind, match=told):
        variant(LOOP, **changes)


def test_a_label_in_use_can_be_backfilled_by_another_window() -> None:
    """What only a new label is refused for must not keep an old loop from its own history."""
    label = LOOP.label.model_copy(update={"sql": "count(*) filter (where kind = 'clikc') > 0"})
    used = LOOP.model_copy(update={"label": label})
    assert variant(used, grace="5s").label == label
    with pytest.raises(LoopError, match="compares kind with 'cilck'"):
        variant(used, label="count(*) filter (where kind = 'cilck') > 0")
