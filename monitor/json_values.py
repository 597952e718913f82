"""Converts values of the lake to JSON."""

from datetime import datetime
from math import isfinite


def as_json(value: object) -> object:
    """Return *value* for JSON: times as ISO 8601, numbers that are not finite as null.

    >>> as_json({"at": datetime(2026, 1, 1), "score": [0.5, float("nan")]})
    {'at': '2026-01-01T00:00:00', 'score': [0.5, None]}
    """
    match value:
        case datetime():
            return value.isoformat()
        case float() if not isfinite(value):
            return None
        case dict():
            return {name: as_json(each) for name, each in value.items()}
        case list():
            return [as_json(each) for each in value]
    return value
