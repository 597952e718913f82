"""A comparison as SQL: for each column what the stream wrote, and what it must be."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One column: an expression for what the stream wrote, and one for what it must be."""

    column: str
    stream: str
    audit: str

    @property
    def differs(self) -> str:
        """An expression that is true where they differ; null is a value like others."""
        return f"({self.stream}) IS DISTINCT FROM ({self.audit})"


def columns_sql(checks: Sequence[Check]) -> str:
    """Return an expression for the list of differing columns, with both values as text."""
    told = ", ".join(
        f"{{'column': '{check.column}', 'differs': {check.differs}, "
        f"'stream': ({check.stream})::VARCHAR, 'audit': ({check.audit})::VARCHAR}}"
        for check in checks
    )
    return f"list_filter([{told}], lambda c: c.differs)"


def any_sql(checks: Sequence[Check]) -> str:
    """Return an expression that is true where one of *checks* differs."""
    return " OR ".join(check.differs for check in checks)
