"""A variant of a loop: the same decision point with another label or other windows.

A variant is never published. Backfills use one to make the examples that it would have given.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from tidemill.errors import LoopError, RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.diagnostics import diagnostics
from tidemill.schemas.loop.labels import compile_label


def variant(
    loop: Loop,
    *,
    label: str | None = None,
    label_type: Literal["bool", "float"] | None = None,
    missing: Literal["negative", "censored", "dropped"] | None = None,
    within: Mapping[str, str] | None = None,
    early: Mapping[str, str] | None = None,
    grace: str | None = None,
) -> Loop:
    """Return *loop* with the given changes; *within* and *early* are durations by kind of feedback.

    Raises:
        RequestError: *loop* has no such kind of feedback.
        LoopError: the result is not a legal loop, or its label is wrong.
    """
    tree: dict[str, Any] = loop.model_dump(mode="json")
    for name, value in (("sql", label), ("type", label_type), ("missing", missing)):
        if value is not None:
            tree["label"][name] = value
    for name, lengths in (("within", within), ("early", early)):
        for kind, length in (lengths or {}).items():
            if kind not in tree["feedback"]:
                raise RequestError(
                    f"{loop.loop} has no feedback {kind!r}",
                    hint=f"it has: {', '.join(tree['feedback'])}",
                )
            tree["feedback"][kind][name] = length
    if grace is not None:
        tree["grace"] = grace
    if tree["label"]["type"] != loop.label.type:  # these defaults depend on the type
        tree["gate"].pop("metric")
        (tree["models"]["online"] or {}).pop("learner", None)
    changed = _validated(tree)
    compile_label(changed, is_published=changed.label.sql == loop.label.sql)
    return changed


def _validated(tree: Mapping[str, object]) -> Loop:
    try:
        return Loop.model_validate(tree)
    except ValidationError as error:
        first = diagnostics(error, tree)[0]
        raise LoopError(first.what, hint=first.hint) from error
