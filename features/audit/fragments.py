"""The parts that queries of an audit are made of: bounds in time, shares of ids, comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from tidemill.features.audit.spans import AuditSlice, micros
from tidemill.schemas.events.schemas import decision_frame_schema, orders_of_items
from tidemill.schemas.loop.definition import Loop


def in_time(table: str, since: int, until: int | None) -> str:
    """Return the condition of event times in [*since*, *until*); the date lets files be skipped."""
    at, date = f'{table}."at"', f"{table}.event_date"
    parts = [f"{at} >= {_moment(since)}", f"{date} >= {_moment(since)}::DATE"]
    if until is not None:
        parts += [f"{at} < {_moment(until)}", f"{date} <= {_moment(until)}::DATE"]
    return " AND ".join(parts)


def _moment(at: int) -> str:
    return f"make_timestamptz({at}::BIGINT)"


def in_slice(table: str, share: AuditSlice, ahead: int = 0) -> str:
    """Return the condition of rows whose time plus *ahead* is in the bounds of their partition."""
    at = f'{table}."at"'
    return (
        f"{in_time(table, share.since - ahead, share.until - ahead)}"
        f" AND {at} >= make_timestamptz(since - {ahead})"
        f" AND {at} < make_timestamptz(until - {ahead})"
    )


def in_share(key: str, share: AuditSlice) -> str:
    """Return the condition of the ids of a share; all records of an id are in one share."""
    if share.one_in == 1:
        return ""
    return f"AND hash({key}) % {share.one_in} = {share.remainder}"


def bounds_sql(share: AuditSlice) -> str:
    """Return the bounds of each partition of *share* as the body of an SQL VALUES list."""
    return values_sql((number, *bound) for number, bound in share.bounds.items())


def values_sql(rows: Iterable[Sequence[int | None]]) -> str:
    """Return rows of integers as the body of an SQL VALUES list."""
    return ", ".join(
        "(" + ", ".join("NULL" if value is None else str(value) for value in row) + ")"
        for row in rows
    )


def span_sql(length: timedelta) -> str:
    """Return *length* as an SQL interval."""
    return f"to_microseconds({micros(length)})"


ITEM_OF_EXAMPLE: Mapping[str, str] = {
    "item": "s.item",
    "position": "t.position",
    "item_propensity": "s.item_propensity",
    "item_features": "s.item_features",
}
"""The columns of an example that are about one item: SQL over a row ``t`` of what its logs imply,
and the row ``s`` that `with_items_sql` joins to it."""


def not_repeated(loop: Loop) -> dict[str, str]:
    """Return the columns of a decision that its examples leave null, and SQL for that."""
    return dict.fromkeys(orders_of_items(decision_frame_schema(loop)), "NULL")


def with_items_sql(decisions: str, share: AuditSlice) -> str:
    """Return the join of rows ``t`` with the items that the decisions of *share* have shown.

    Of several items at one position, the first of the list was shown.
    """
    return f"""
        LEFT JOIN (
            SELECT "partition", "offset", position, first_.id AS item,
                   first_.propensity AS item_propensity, first_.features AS item_features
            FROM (
                SELECT "partition", "offset", each.position AS position,
                       arg_min(each, number) AS first_
                FROM (SELECT d."partition", d."offset", unnest(d.items) AS each,
                             generate_subscripts(d.items, 1) AS number
                      FROM {decisions} d JOIN bounds USING ("partition")
                      WHERE {in_slice("d", share)} {in_share("d.id", share)})
                WHERE each.position IS NOT NULL GROUP BY ALL
            )
        ) s ON s."partition" = t."partition" AND s."offset" = t."offset"
           AND s.position = t.position"""


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
