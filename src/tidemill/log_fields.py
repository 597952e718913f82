"""Fields that each log line of a stretch of work carries: the loop, the partition."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_FIELDS: ContextVar[Mapping[str, object]] = ContextVar("log_fields", default={})  # noqa: B039 (never changed)


@contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Have each line that is logged meanwhile, in this thread or task, carry *fields*."""
    before = _FIELDS.set({**_FIELDS.get(), **fields})
    try:
        yield
    finally:
        _FIELDS.reset(before)


def current_log_fields() -> Mapping[str, object]:
    """Return the fields that a line carries now."""
    return _FIELDS.get()
