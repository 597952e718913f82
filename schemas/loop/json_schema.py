"""The JSON Schema of loop files, for editors: completion, help on hover, errors while typing.

`loop.schema.json` beside this file is the result of `loop_json_schema_text`; a test compares them.
An editor finds less than `tidemill check`, which also compares parts of a loop with each other.
"""

import json
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.durations import format_duration
from tidemill.schemas.loop.sizes import format_size

FILE = "loop.schema.json"
_ISO = TypeAdapter(timedelta)


def loop_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every legal loop file satisfies."""
    schema = Loop.model_json_schema(mode="validation")
    _tidy(schema)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "tidemill loop",
        **schema,
    }


def loop_json_schema_text() -> str:
    """Return `loop_json_schema` as the text of its file."""
    return json.dumps(loop_json_schema(), indent=2) + "\n"


def _tidy(node: object) -> None:
    """Drop titles (editors show names), close maps, and write durations as in loop files."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        if "patternProperties" in node:
            node["additionalProperties"] = False
        if "pattern" in node and str(node.get("default")).startswith("P"):
            node["default"] = format_duration(_ISO.validate_python(node["default"]))
        if "pattern" in node and isinstance(node.get("default"), int):
            node["default"] = format_size(node["default"])
        for child in node.values():
            _tidy(child)
    elif isinstance(node, list):
        for child in node:
            _tidy(child)
