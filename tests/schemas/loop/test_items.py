"""Loops whose requests bring the things to choose among."""

import jsonschema
import pytest
from pydantic import ValidationError
from tests.schemas.loops import ITEMS, MINIMAL, minimal, with_items

from tidemill.kafka import Record
from tidemill.schemas.avro.columnar_decoder import LONG_LIST
from tidemill.schemas.loop.definition import Items, Loop
from tidemill.schemas.loop.diff import check_successor, diff_loops
from tidemill.schemas.loop.json_schema import loop_json_schema
from tidemill.schemas.loop.loop_file import dump_loop, parse_loop
from tidemill.schemas.loop.yaml_subset import read_tree
from tidemill.schemas.loop_topic import key_of
from tidemill.schemas.loop_topic import parse_loop as parse_record
from tidemill.serving.worker import ServingWorkerConfig

FILE = MINIMAL.replace(
    "decision: {type: bool, default: false}",
    "decision:\n  type: ranking\n  items:\n    features: {price: float, topic: category}",
).replace("threshold", "softmax")


def test_the_default_is_what_the_request_brings_first() -> None:
    """An item cannot be named before its request is there."""
    assert with_items().decision.default == ""
    assert with_items("ranking").decision.default == []
    assert with_items().depends_on == "action"


def refused(**changes: object) -> str:
    """Return what is said about the loop with items with *changes*."""
    with pytest.raises(ValidationError) as caught:
        Loop.model_validate({**with_items().model_dump(), **changes})
    return str(caught.value)


def decided(kind: str = "choice", items: object = ITEMS, **more: object) -> dict[str, object]:
    """Return a decision among items."""
    return {"decision": {"type": kind, "items": items, **more}}


def having(*names: str) -> dict[str, object]:
    """Return items with features of those names."""
    return {"features": dict.fromkeys(names, "float")}


@pytest.mark.parametrize(
    ("changes", "what", "hint"),
    [
        (decided("bool", default=True), "a bool decision has no items", "a choice or a ranking"),
        (decided("float", default=1.0), "a float decision has no items", "a choice or a ranking"),
        (decided(actions=["a", "b"]), "items come with each request", "leave out one"),
        (decided(default="article-1"), "'article-1' may not be among", "leave default out"),
        (decided("ranking", default=["a"]), "may not be among the items", "their order"),
        (decided(items={"features": {}}), "at least 1 item", ""),
        (decided(items={**ITEMS, "max": 1}), "greater than or equal to 2", ""),
        (decided(items={**ITEMS, "max": LONG_LIST + 1}), "less than or equal to 1000", ""),
        (decided(items={**ITEMS, "log": "none"}), "'all' or 'shown'", ""),
        (decided(items=having("country")), "'country' is one of the loop and one", "item_country"),
        (decided(items=having("action")), "'action' is the name of a column", "action_before"),
        (decided(items=having("position")), "'position' is the name of a column", "before"),
        ({"features": {"item": "category"}}, "'item' is the name of a column", "item_before"),
        ({"policy": {"kind": "threshold"}}, "a threshold policy cannot answer", "greedy or softm"),
        ({"policy": {"kind": "thompson"}}, "a thompson policy cannot answer", "greedy or softmax"),
        ({"policy": {"kind": "value"}}, "a value policy cannot answer", "greedy or softmax"),
    ],
)
def test_items_that_do_not_fit_are_refused(
    changes: dict[str, object], what: str, hint: str
) -> None:
    """The message is read by somebody who writes his first loop with items."""
    said = refused(**changes)
    assert what in said
    assert hint in said


def test_a_value_of_feedback_cannot_take_the_name_of_an_item() -> None:
    """Feedback says by that name which item it is about."""
    clicked = {"within": "30m", "values": {"item": "category"}}
    assert "'item' is the name of a column" in refused(feedback={"clicked": clicked})
    assert minimal(feedback={"clicked": clicked}).feedback["clicked"].values


def test_a_loop_without_items_is_told_as_before() -> None:
    """Releases without items read it, and its digest stays."""
    assert "items" not in minimal().canonical
    assert '"items":{"features":{"price"' in with_items().canonical
    assert Loop.model_validate_json(with_items().canonical) == with_items()


def test_no_more_items_are_allowed_than_are_decoded_in_columns() -> None:
    """A loop at the limit would be read one event after the other, at a fiftieth of the speed."""
    most = Items.model_fields["max"].metadata
    assert [each.le for each in most if hasattr(each, "le")] == [LONG_LIST]


def test_an_editor_asks_for_a_default_or_for_items() -> None:
    """Only one of the two has to be there."""
    schema = loop_json_schema()
    jsonschema.validate(read_tree(FILE, file="x").value, schema)
    neither = MINIMAL.replace(", default: false", "")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(read_tree(neither, file="x").value, schema)


def test_a_loop_with_items_is_taken_wherever_it_comes_from() -> None:
    """From a file, by `publish`, from the topic of loops, and by a worker."""
    loop = parse_loop(FILE, file="banner.yaml")
    assert loop.decision.items is not None
    assert check_successor({}, loop)
    value = loop.canonical.encode()
    record = Record(topic="t", partition=0, offset=0, key=key_of(loop), value=value, timestamp_ms=0)
    assert parse_record(record) == loop
    assert ServingWorkerConfig(kafka=None, name="w", definitions=(loop,)).definitions == (loop,)


def test_a_file_of_a_loop_is_written_as_people_write_it() -> None:
    """The default is left out, and the short form of a type is used."""
    text = dump_loop(with_items())
    assert "default" not in text.partition("features:\n  country")[0]
    assert "price: float" in text
    tree = read_tree(text, file="x").value
    assert Loop.model_validate(tree) == with_items()


def changes(old: Loop, new: Loop) -> dict[str, bool]:
    """Return the paths that changed, and whether older events stay readable."""
    return {each.path: each.is_compatible for each in diff_loops(old, new)}


def test_features_of_items_change_by_the_rules_of_features() -> None:
    """They are columns of the lake too."""

    def later(**features: object) -> Loop:
        given = {"price": "float", "topic": "category", "age": {"type": "int", "nullable": True}}
        items = {**ITEMS, "features": {**given, **features}, "max": 60}
        return with_items(version=2, decision={"type": "choice", "items": items})

    path = "decision.items.features"
    assert changes(with_items(), later()) == {"decision.items.max": True}
    more = later(colour={"type": "category", "nullable": True})
    assert changes(with_items(), more)[f"{path}.colour"]
    assert not changes(with_items(), later(colour="category"))[f"{path}.colour"]
    assert not changes(with_items(), later(topic="int"))[f"{path}.topic"]


def test_a_loop_does_not_change_from_actions_to_items() -> None:
    """Its examples would be rows of another kind."""
    actions = {"type": "choice", "actions": ["a", "b"], "default": "a"}
    fixed = with_items(decision=actions)
    assert not changes(fixed, with_items(version=2))["decision.items"]
    assert not changes(with_items(), with_items(version=2, decision=actions))["decision.items"]
