"""The items of past decisions: what a line of a history says was brought, and what was shown."""

from collections.abc import Mapping, Sequence

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.decision.items import RequestItems

_PROPENSITY = "propensity"


def split_propensities(items: object) -> tuple[object, list[object]]:
    """Return the *items* of a line as a request would bring them, and their propensities."""
    if not isinstance(items, list):
        return items, []
    known = [item.get(_PROPENSITY) if isinstance(item, Mapping) else None for item in items]
    plain = [
        {name: value for name, value in item.items() if name != _PROPENSITY}
        if isinstance(item, Mapping)
        else item
        for item in items
    ]
    return plain, known


def logged_items(
    loop: Loop,
    items: RequestItems,
    action: object,
    known: Sequence[object],
    propensity: float | None,
) -> list[dict[str, object]]:
    """Return the items of a decision event of *loop* that has taken *action*.

    Args:
        loop: whose requests bring items.
        items: those of the request.
        action: the id of an item, or a list of ids.
        known: the propensities of the items, None where the line has none.
        propensity: that of the action of a choice; None if the line has none.

    Raises:
        RequestError: a propensity is no probability.
    """
    shown = action if isinstance(action, list) else [action]
    position = {name: place for place, name in enumerate(shown)}
    if not isinstance(action, list):
        taken = zip(items.ids, known, strict=True)
        known = [propensity if c is None and name == action else c for name, c in taken]
    names = loop.decision.items.features if loop.decision.items else {}
    return [
        {
            "id": name,
            "propensity": _probability(name, chance),
            "position": position.get(name),
            "features": dict(zip(names, row, strict=True)),
        }
        for name, row, chance in zip(items.ids, items.rows, known, strict=True)
    ]


def shown_action(items: RequestItems, action: object, *, is_ranking: bool) -> object:
    """Return the *action* of a line: the id of an item, or a list of ids; the default for None.

    Raises:
        RequestError: it is something else.
    """
    if action is None:
        return items.default
    listed = action if is_ranking else [action]
    if isinstance(listed, list | tuple):
        known = [each for each in listed if isinstance(each, str) and each in items.ids]
        if 0 < len(set(known)) == len(listed):
            return known if is_ranking else action
    wanted = "a list of ids of items, each once" if is_ranking else "the id of an item"
    raise RequestError(f"action {action!r:.100} is not among the items", hint=f"write {wanted}")


def _probability(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise RequestError(
            f"the propensity of item {name!r:.100} is {value!r:.100}, no probability",
            hint="write that with which it was taken, in a ranking that of its position given "
            "those before it; or leave it out",
        )
    return float(value)
