"""The fast way to the bytes of a decision is a way to the same bytes."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.serving.models import VALUES, banner

from tidemill.schemas.events.schemas import DecisionEncoder
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.event_encoder import Circumstances, decision_encoder

ACTIONS = ["a", "b", "c"]
LOOPS: list[Loop] = [
    banner(decision={"type": "bool", "default": False}, policy={"kind": "threshold"}),
    banner(
        decision={"type": "choice", "actions": ACTIONS, "default": "a"}, policy={"kind": "greedy"}
    ),
    banner(
        decision={"type": "float", "default": 0.0},
        policy={"kind": "value"},
        label={"sql": "max(seconds)", "type": "float"},
    ),
    banner(
        decision={"type": "ranking", "actions": ACTIONS, "default": ["a"]},
        policy={"kind": "greedy"},
    ),
]
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes(timezones=st.just(UTC))
FEATURES = st.fixed_dictionaries(
    {
        "country": st.text(),
        "visits": st.integers(-(2**63), 2**63 - 1),
        "amount": NUMBERS | st.integers(-5, 5),
        "member": st.booleans(),
        "seen": st.none() | TIMES,
        "tags": st.none() | st.lists(st.text(), max_size=3),
        "age": st.none() | NUMBERS,
    }
)


def actions(loop: Loop) -> st.SearchStrategy[object]:
    """Return the actions of *loop*."""
    if loop.decision.type == "bool":
        return st.booleans()
    if loop.decision.type == "float":
        return NUMBERS
    one = st.sampled_from(ACTIONS)
    return one if loop.decision.type == "choice" else st.lists(one, unique=True)


def circumstances(loop: Loop) -> st.SearchStrategy[Circumstances]:
    """Return what else may be logged about a decision of *loop*."""
    text, answer = st.none() | st.text(), st.none() | actions(loop)
    return st.builds(
        Circumstances,
        baseline=answer,
        propensities=st.none() | st.lists(st.floats(0.0, 1.0), max_size=3),
        policy_action=answer,
        stage=text,
        rule_version=st.none() | st.integers(1, 2**31 - 1),
        experiment=text,
        arm=text,
    )


@given(st.data())
def test_the_bytes_are_those_of_the_schema(data: st.DataObject) -> None:
    """Other readers know the schema only; a shortcut that differs would be a dead letter."""
    loop = data.draw(st.sampled_from(LOOPS))
    store = MemorySchemaStore()
    decision = data.draw(
        st.fixed_dictionaries(
            {
                "id": st.text(min_size=1),
                "at": TIMES | st.integers(0, 2**52),
                "entity": st.none() | st.text(),
                "action": actions(loop),
                "score": st.none() | NUMBERS,
                "propensity": st.none() | st.floats(0.0, 1.0),
                "source": st.sampled_from(["model", "default", "explore", "fallback"]),
                "model_version": st.none() | st.sampled_from(["lightgbm-1", "river-22"]),
                "features": FEATURES,
            }
        )
    )
    more = data.draw(st.none() | circumstances(loop))
    versions = {"policy_version": loop.policy.version, "loop_version": loop.version}
    told: dict[str, Any] = {name: value for name, value in decision.items() if name != "id"}
    choice = (told.pop("action"), told.pop("score"), told.pop("propensity"), None)
    encode = decision_encoder(loop, store)
    fast = encode(
        str(decision["id"]).encode(),
        told["at"],
        told["entity"],
        choice,
        told["source"],
        told["model_version"],
        tuple(told["features"][name] for name in loop.features),
        more,
    )
    rest = more._asdict() if more is not None else {}
    assert fast == DecisionEncoder(loop, store).encode({**decision, **versions, **rest})


def test_a_time_may_be_a_datetime_or_microseconds() -> None:
    """A service sends the one, a worker's clock gives the other."""
    encode = decision_encoder(LOOPS[0], MemorySchemaStore())
    first, second = (
        encode(b"d", at, None, (True, None, 1.0, None), "default", None, VALUES, None)
        for at in (datetime(2026, 1, 1, tzinfo=UTC), 1_767_225_600_000_000)
    )
    assert first == second
