"""Which kinds of feedback the SQL of a label counts, as far as its text surely says.

A label is an aggregate over the feedback of a decision, so any kind may count. A kind does not only
where each aggregate either has a filter by another kind, or takes one value that the kind does not
have. Anything else than these two forms counts all kinds: to count one too many only makes two
labels count as different.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidemill.schemas.loop.definition import Feedback

_FILTERED = re.compile(
    r"\b\w+\s*\([^()'\"]*\)\s*filter\s*\(\s*where\s+kind\s*=\s*'(\w+)'((?:\s+and\s[^()]*)?)\)",
    re.IGNORECASE,
)
_OF_VALUE = re.compile(
    r"\b(?:max|min|sum|avg|count|bool_or|bool_and)\s*\(\s*(\w+)\s*\)", re.IGNORECASE
)
_SCALAR = frozenset(
    (
        *("coalesce", "greatest", "least", "abs", "round", "floor", "ceil", "ln", "log", "sqrt"),
        *("filter", "where", "and", "or", "not", "in"),
    )
)
"""What may stand before a parenthesis and is no aggregate."""
_CALL = re.compile(r"([\w\"']*)\s*\(")
_OR = re.compile(r"\bor\b", re.IGNORECASE)


def counted_kinds(
    sql: str, feedback: Mapping[str, "Feedback"], activation: str | None
) -> frozenset[str]:
    """Return the kinds whose feedback may change a label by *sql*.

    Args:
        sql: the SQL of the label.
        feedback: the kinds of the loop.
        activation: the kind without which there is no label; it always counts.
    """
    everything = frozenset(feedback)
    if "--" in sql or "/*" in sql:
        return everything
    found: set[str] = set() if activation is None else {activation}
    for match in _FILTERED.finditer(sql):
        if _OR.search(match[2]):
            return everything
        found.add(match[1])
    rest = _FILTERED.sub(" ", sql)
    for match in _OF_VALUE.finditer(rest):
        kinds = {name for name, kind in feedback.items() if match[1] in kind.values}
        if not kinds:  # not a value of a kind: every feedback has this column
            return everything
        found |= kinds
    rest = _OF_VALUE.sub(" ", rest)
    if any(name.lower() not in _SCALAR and name for name in _CALL.findall(rest)):
        return everything
    return frozenset(found) if found and found <= everything else everything
