"""A baseline is checked like an answer of the loop: it may become one."""

import msgspec
import numpy as np
import pytest
from tests.serving.models import FEATURES, banner

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.decision.requests import DecisionReader

BOOL = banner(decision={"type": "bool", "default": False}, policy={"kind": "threshold"})
CHOICE = banner()
NUMBER = banner(
    decision={"type": "float", "default": 0.0},
    policy={"kind": "value", "low": -1.0, "high": 2.0},
    label={"sql": "max(seconds)", "type": "float"},
)
RANKING = banner(
    decision={"type": "ranking", "actions": ["a", "b", "c"], "default": ["a"]},
    policy={"kind": "greedy"},
)


@pytest.mark.parametrize(
    ("loop", "sent", "read"),
    [
        (BOOL, True, True),
        (BOOL, False, False),
        (CHOICE, "show", "show"),
        (NUMBER, 1.5, 1.5),
        (NUMBER, 2, 2.0),
        (NUMBER, np.float32(0.5), 0.5),
        (RANKING, ["c", "a"], ["c", "a"]),
        (RANKING, ("b",), ["b"]),
        (CHOICE, None, None),
    ],
)
def test_an_answer_of_the_loop_is_taken(loop: Loop, sent: object, read: object) -> None:
    """It is logged in the type of the action, and is the default of the decision."""
    request = DecisionReader(loop).check(FEATURES, baseline=sent)
    assert request.baseline == read
    assert type(request.baseline) is type(read)


@pytest.mark.parametrize(
    ("loop", "sent", "hint"),
    [
        (BOOL, 1, "true or false"),
        (BOOL, "yes", "true or false"),
        (CHOICE, "sell", "one of show, hide"),
        (CHOICE, ["show"], "one of show, hide"),
        (NUMBER, 2.5, "a number from -1.0 to 2.0"),
        (NUMBER, float("nan"), "a number from -1.0 to 2.0"),
        (NUMBER, 10**400, "a number from -1.0 to 2.0"),
        (NUMBER, True, "a number from -1.0 to 2.0"),
        (NUMBER, "1", "a number from -1.0 to 2.0"),
        (RANKING, [], "some of a, b, c"),
        (RANKING, ["a", "a"], "some of a, b, c"),
        (RANKING, ["a", "d"], "some of a, b, c"),
        (RANKING, "a", "some of a, b, c"),
    ],
)
def test_anything_else_is_refused_with_what_to_send(loop: Loop, sent: object, hint: str) -> None:
    """A default that is no answer would be logged as a dead letter, or taken as an action."""
    with pytest.raises(RequestError, match="is no answer of this") as caught:
        DecisionReader(loop).check(FEATURES, baseline=sent)
    assert hint in caught.value.hint


def test_a_baseline_in_json_is_read_alike() -> None:
    """Services in other languages send it too, alone and in batches."""
    body = b'{"features": %s, "baseline": %%s}' % msgspec.json.encode(FEATURES)
    reader = DecisionReader(RANKING)
    for text in (body % b'["c", "a"]', b'{"batch": [' + body % b'["c", "a"]' + b"]}"):
        read = reader.read(text)
        (request,) = read if isinstance(read, list) else [read]
        assert request.baseline == ["c", "a"]
    with pytest.raises(RequestError, match="is no answer"):
        reader.read(body % b'{"a": 1}')
