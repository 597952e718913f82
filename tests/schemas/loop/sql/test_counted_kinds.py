"""Which kinds a label counts is read from its SQL, and in doubt all of them."""

import pytest

from tidemill.schemas.loop.definition import Feedback
from tidemill.schemas.loop.sql.counted_kinds import counted_kinds

KINDS = {
    "clicked": Feedback.model_validate({"within": "10m", "values": {"s": "float"}}),
    "bought": Feedback.model_validate({"within": "1h", "values": {"euros": "float"}}),
    "shown": Feedback.model_validate({"within": "1h"}),
}


@pytest.mark.parametrize(
    ("sql", "counted"),
    [
        ("max(s) > 3", {"clicked"}),
        ("coalesce(sum(euros), 0) > 3", {"bought"}),
        ("max(s) > 1 or max(euros) > 2", {"clicked", "bought"}),
        ("count(*) filter (where kind = 'clicked') > 0", {"clicked"}),
        ("COUNT(*) FILTER (WHERE kind = 'clicked' AND s > 3) > 0", {"clicked"}),
    ],
)
def test_a_kind_that_cannot_change_the_label_does_not_count(sql: str, counted: set[str]) -> None:
    """A loop that begins to log another kind keeps its model and its rows."""
    assert counted_kinds(sql, KINDS, None) == counted
    assert counted_kinds(sql, KINDS, "shown") == counted | {"shown"}


@pytest.mark.parametrize(
    "sql",
    [
        "count(*) > 0",
        "count(kind) > 1",
        "count(*) filter (where kind = 'clicked' or kind = 'shown') > 0",
        "count(*) filter (where kind = 'clicked' and s > 3 or kind = 'shown') > 0",
        "count(*) filter (where kind <> 'clicked') > 0",
        "sum(coalesce(euros, 1)) > 2",
        "first(s) > 1",
        '"list"(s) is null',
        "count(distinct s) > 1",
        "max(s) > 1 -- count(*)",
        "count(*) filter (where kind = 'clicked' and (s > 3 or true)) > 0",
        "count(*) filter (where kind = 'unknown') > 0",
    ],
)
def test_in_doubt_all_kinds_count(sql: str) -> None:
    """One too many makes two labels count as different; one too few would mix them."""
    assert counted_kinds(sql, KINDS, None) == set(KINDS)
