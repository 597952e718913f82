"""The reference of the HTTP API, from the OpenAPI document that a worker serves."""

import json
from collections.abc import Iterator
from typing import Any

from docs.generate.markdown import code, table
from docs.generate.names import served_api


def http_api() -> str:
    """Return a table of the paths, then the whole document."""
    document = served_api()
    text = json.dumps(document, indent=1)
    listed = table(["request", "what it does", "statuses"], _rows(document))
    return f"{listed}\n\n## The document\n\n```json\n{text}\n```"


def _rows(document: dict[str, Any]) -> Iterator[list[str]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = ", ".join(operation["responses"])
            yield [code(f"{method.upper()} {path}"), operation["summary"], statuses]
