"""What may be published is what the lake takes: the two are asked one after the other."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ContractError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.published import Loops, MemoryLoops

Fields = Mapping[str, str]

DECISIONS: Mapping[str, dict[str, object]] = {
    "bool": {
        "decision": {"type": "bool", "default": False},
        "policy": {"kind": "threshold"},
    },
    "choice": {
        "decision": {"type": "choice", "actions": ["a", "b", "c"], "default": "a"},
        "policy": {"kind": "greedy"},
    },
    "float": {"decision": {"type": "float", "default": 0.0}, "policy": {"kind": "value"}},
    "ranking": {
        "decision": {"type": "ranking", "actions": ["a", "b"], "default": ["a"]},
        "policy": {"kind": "greedy"},
    },
}
FEATURES = {"x": "int", "y": "category"}
FEEDBACK = {"a": {"v": "float"}}


def loop_of(
    features: Fields = FEATURES,
    feedback: Mapping[str, Fields] = FEEDBACK,
    decision: str = "bool",
    **changes: object,
) -> Loop:
    """Return a loop whose fields may all be null, so that nothing but types can be refused."""
    parts: dict[str, object] = {
        "loop": "shop",
        **DECISIONS[decision],
        "features": {name: _nullable(kind) for name, kind in features.items()},
        "feedback": {
            kind: {"within": "1h", "values": {name: _nullable(each) for name, each in own.items()}}
            for kind, own in feedback.items()
        },
        "label": {"sql": "count(*) > 0"},
    }
    return Loop.model_validate({**parts, **changes})


def _nullable(kind: str) -> dict[str, object]:
    return {"type": kind, "nullable": True}


def published(loops: Loops, loop: Loop) -> bool:
    """Return whether *loop* may be published."""
    try:
        return loops.publish(loop)
    except ContractError:
        return False


def created(lake: Lake, loop: Loop) -> bool:
    """Return whether the lake makes the tables of *loop*."""
    try:
        lake.create(loop)
    except ContractError:
        return False
    return True


def verdicts(root: str | Path, history: list[Loop]) -> list[bool]:
    """Publish *history*, version by version, and return which were; the lake has to agree."""
    loops, lake = MemoryLoops(), Lake(LakeConfig(root=str(root)))
    found = []
    for version, changed in enumerate(history, start=1):
        loop = changed.model_copy(update={"version": version})
        may = published(loops, loop)
        assert created(lake, loop) is may, loop.canonical
        found.append(may)
    return found


@pytest.mark.parametrize(
    ("later", "is_allowed"),
    [
        ([loop_of(grace="9m")], True),
        ([loop_of({"x": "int"})], True),
        ([loop_of({"y": "category", "x": "int"})], True),
        ([loop_of({**FEATURES, "z": "float"})], True),
        ([loop_of({"x": "float", "y": "category"})], False),
        ([loop_of({"x": "timestamp", "y": "category"})], False),
        ([loop_of({"x": "int", "y": "categories"})], False),
        ([loop_of({"y": "category"}), loop_of()], True),
        ([loop_of({"y": "category"}), loop_of({"x": "float", "y": "category"})], False),
        ([loop_of(feedback={"a": {}})], True),
        ([loop_of(feedback={"a": {"v": "int"}})], False),
        ([loop_of(feedback={"b": {"v": "float"}})], True),
        ([loop_of(feedback={"b": {"v": "category"}})], False),
        ([loop_of(feedback={"a": {}, "b": {"v": "category"}})], False),
        ([loop_of(feedback={"b": {}}), loop_of(feedback={"b": {"v": "bool"}})], False),
        ([loop_of(feedback={"b": {}}), loop_of(feedback={"b": {"v": "float"}})], True),
        ([loop_of(feedback={"a": {"x": "category"}})], True),
        ([loop_of(decision="choice")], False),
        ([loop_of(decision="float")], False),
        ([loop_of(decision="ranking")], False),
    ],
)
def test_a_change_of_type_is_refused_before_it_is_published(
    later: list[Loop], is_allowed: bool, tmp_path: Path
) -> None:
    """What is published stands for ever: workers would start, be refused by the lake, and stop."""
    assert verdicts(tmp_path, [loop_of(), *later])[-1] is is_allowed


@st.composite
def versions(draw: st.DrawFn) -> Loop:
    """Return a loop of few names and all types, so that versions of it often clash."""
    types = st.sampled_from([kind.value for kind in FieldType])
    features = draw(st.dictionaries(st.sampled_from("xyz"), types, min_size=1))
    values = draw(st.dictionaries(st.sampled_from("vw"), types))
    kinds = draw(st.sets(st.sampled_from("abc"), min_size=1))
    feedback = {
        kind: {name: each for name, each in values.items() if draw(st.booleans())}
        for kind in sorted(kinds)
    }
    decision = draw(st.sampled_from(["bool"] * 6 + sorted(DECISIONS)))
    return loop_of(features, feedback, decision)


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(st.lists(versions(), min_size=2, max_size=4))
def test_a_version_may_be_published_if_and_only_if_the_lake_takes_it(history: list[Loop]) -> None:
    """Whatever came before: columns of every earlier version are still there."""
    with tempfile.TemporaryDirectory() as root:
        assert verdicts(root, history)[0] is True
