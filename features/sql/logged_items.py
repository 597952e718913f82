"""Decisions with items in SQL: each logged item as a row, and one row for all examples of one."""

EXAMPLE_STATES = ("labeled", "no_feedback", "censored", "not_activated", "label_error")
"""What examples end as. Where decisions have items, a decision has the first of its examples'."""


def items_sql(decisions: str) -> str:
    """Return a query for the items of *decisions*, shown or not, with columns as in `examples`.

    Late decisions and copies have theirs too, with a *verdict*.
    """
    return f"""
        SELECT * EXCLUDE (each), each.id AS item, each.position AS "position",
               each.propensity AS item_propensity, each.features AS item_features
        FROM (
            SELECT id AS decision_id, "at", entity, features, source, model_version,
                   policy_version, loop_version, verdict, topic, "partition", "offset",
                   unnest(items) AS each
            FROM {decisions}
        )"""


def of_decisions(examples: str) -> str:
    """Return a query for one row a decision, of the FROM item *examples*, which are of items.

    Its columns: partition, offset, state, how many items were *shown* and *labeled*, and the
    highest revision.
    """
    return f"""
        SELECT "partition", "offset",
               arg_min(state, list_position({list(EXAMPLE_STATES)}, state)) AS state,
               count("position") AS shown, count(*) FILTER (state = 'labeled') AS labeled,
               max(revision) AS revision
        FROM {examples} GROUP BY ALL"""


def is_shown_sql(examples: str, decision: str, feedback: str) -> str:
    """Return the condition that an item of *decision*, which is closed, takes *feedback*."""
    shown = f"FROM {examples} WHERE item IS NOT NULL"
    key = f'{decision}."partition", {decision}."offset"'
    return f"""CASE WHEN {feedback}.item IS NULL
                         THEN ({key}) IN (SELECT ("partition", "offset") {shown})
                         ELSE ({key}, {feedback}.item) IN
                              (SELECT ("partition", "offset", item) {shown}) END"""
