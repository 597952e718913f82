"""The JSON Schema of loop files: what editors say is what `check` says."""

from pathlib import Path

import jsonschema
import pytest
from tests.schemas.loops import MINIMAL

from tidemill.schemas.loop.json_schema import loop_json_schema, loop_json_schema_text
from tidemill.schemas.loop.yaml_subset import read_tree

ROOT = Path(__file__).parents[3]


def test_the_packaged_schema_is_the_one_of_the_code() -> None:
    """Write it again with: tidemill schema > schemas/loop/loop.schema.json."""
    assert (ROOT / "schemas/loop/loop.schema.json").read_text() == loop_json_schema_text()


@pytest.mark.parametrize("path", ["deploy/demo/flights.yaml", "cli/loop.template.yaml"])
def test_our_own_loop_files_satisfy_it(path: str) -> None:
    """An editor that underlines the example in red teaches people to ignore it."""
    tree = read_tree((ROOT / path).read_text(), file=path)
    jsonschema.validate(tree.value, loop_json_schema())


@pytest.mark.parametrize(
    ("old", "new"), [("30m", "soon"), ("label:", "labels:"), ("int", "integer"), ("visits", "Vis")]
)
def test_it_sees_mistakes_while_typing(old: str, new: str) -> None:
    """The earlier, the cheaper."""
    tree = read_tree(MINIMAL.replace(old, new), file="banner.yaml")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree.value, loop_json_schema())
