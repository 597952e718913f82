"""Loops that tests start from."""

from tidemill.schemas.loop.definition import (
    Decision,
    Feature,
    Feedback,
    FieldType,
    Label,
    Loop,
    Policy,
)
from tidemill.schemas.loop.yaml_subset import read_tree

MINIMAL = """\
loop: banner
decision: {type: bool, default: false}
features:
  country: category
  visits: int
feedback:
  clicked:
    within: 30m
    values:
      seconds: float
      page: category
label:
  sql: count(*) > 0
policy: {kind: threshold}
"""


def minimal(**changes: object) -> Loop:
    """Return a small legal loop, with *changes* to its parts."""
    plain = read_tree(MINIMAL, file="banner.yaml").value
    assert isinstance(plain, dict)
    return Loop.model_validate({**plain, **changes})


def with_label(sql: str, kind: str = "bool") -> Loop:
    """Return a loop whose feedback has a value of every type, and whose label is *sql*."""
    values = {
        "amount": Feature(type=FieldType.FLOAT),
        "count_": Feature(type=FieldType.INT),
        "ok": Feature(type=FieldType.BOOL),
        "note": Feature(type=FieldType.CATEGORY),
        "tags": Feature(type=FieldType.CATEGORIES),
        "seen": Feature(type=FieldType.TIMESTAMP),
    }
    return Loop(
        loop="labelled",
        decision=Decision(type="bool", default=False),
        features={"country": Feature(type=FieldType.CATEGORY)},
        feedback={"done": Feedback.model_validate({"within": "1h", "values": values})},
        label=Label.model_validate({"sql": sql, "type": kind}),
        policy=Policy(kind="threshold"),
    )


ITEMS: dict[str, object] = {
    "features": {"price": "float", "topic": "category", "age": {"type": "int", "nullable": True}},
    "max": 50,
}


def with_items(kind: str = "choice", **changes: object) -> Loop:
    """Return a small legal loop whose requests bring items, with *changes* to its parts."""
    parts = {"decision": {"type": kind, "items": ITEMS}, "policy": {"kind": "greedy"}}
    return minimal(**{**parts, **changes})
