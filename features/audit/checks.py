"""A comparison as SQL: for each column, what the stream wrote and what it must be."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One column: an expression for the value of the stream, and one for the correct value."""

    column: str
    stream: str
    audit: str

    @property
    def differs(self) -> str:
        """An expression that is true if they differ; null equals null."""
        return f"({self.stream}) IS DISTINCT FROM ({self.audit})"


def columns_sql(checks: Sequence[Check]) -> str:
    """Return an expression for the list of differing columns, with both values as text."""
    structs = ", ".join(
        f"{{'column': '{check.column}', 'differs': {check.differs}, "
        f"'stream': ({check.stream})::VARCHAR, 'audit': ({check.audit})::VARCHAR}}"
        for check in checks
    )
    return f"list_filter([{structs}], lambda c: c.differs)"


def any_sql(checks: Sequence[Check]) -> str:
    """Return an expression that is true if one of *checks* differs."""
    return " OR ".join(check.differs for check in checks)
