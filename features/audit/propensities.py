"""Whether actions are taken as often as their logged propensities say.

If the propensities are right, then over decisions with exploration, 1 / propensity where an action
was taken, and 0 elsewhere, has the mean 1 at most, for each action. The audit bets against that: a
bettor who stakes a share on each decision multiplies his wealth by 1 + share x (value - 1). By
Ville's inequality his wealth ever reaches a million with a probability of a millionth at most,
however often somebody looks. So the audit can go on for years, and its alarm is no accident.

An action that is taken too rarely is found by another one that is taken too often.

Where requests bring items, the bets are on the places of the request: whether its first item, its
second and so on is taken, in a ranking at each of the first positions. A place is bet on where it
had a chance: there was such an item, and an earlier position had not taken it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tidemill.features.audit.spans import AuditSpan
from tidemill.features.lake.lake import Table
from tidemill.features.lake.layouts import DECISIONS
from tidemill.features.sql.bounded import bounded_duckdb
from tidemill.features.sql.views import source
from tidemill.schemas.loop.definition import Loop

STAKES = (0.002, 0.01, 0.05, 0.2, 0.5)
"""The shares that are bet beside each other: small ones find small deviations, in more rows."""
ALARM = 1e6
"""The wealth, for all actions together, from which propensities count as wrong."""


PLACES = 10
"""How many places of a request are bet on."""
POSITIONS = 3
"""How many positions of a ranking of items are bet on."""


@dataclass(slots=True)
class ActionCount:
    """One action: how often it was taken, the sum of 1 / propensity, and the sum of each bet.

    It could be taken in as many decisions as were *offered*.
    """

    offered: int = 0
    taken: int = 0
    weight: float = 0.0
    won: list[float] = field(default_factory=lambda: [0.0] * len(STAKES))


@dataclass(slots=True)
class PropensityAudit:
    """Compares logged propensities with what was done, over all decisions it was given.

    Attributes:
        decisions: how many explored decisions were compared.
        impossible: how many of them were taken although their propensity is not above 0.
        actions: the counts by action; of a ranking by its first one, of a number that is drawn
            around the score by the lower or upper half of its range, of items by their place in the
            request. Where the log has only the items that were shown, there are none.
    """

    loop: Loop
    decisions: int = 0
    impossible: int = 0
    actions: dict[str, ActionCount] = field(default_factory=dict)

    def take(
        self,
        decisions: Table,
        spans: Iterable[AuditSpan],
        version: int,
        on_begin: Callable[[Callable[[], None]], None] = lambda _interrupt: None,
    ) -> None:
        """Compare the rows of *spans*, as of *version* of the raw table *decisions*.

        *on_begin* gets a function with which another thread can interrupt it.

        Raises:
            LakeError: the table cannot be read.
        """
        ranges = [
            f'("partition" = {span.partition} AND "offset" >= {span.start.position(DECISIONS)} '
            f'AND "offset" < {span.end.position(DECISIONS)})'
            for span in spans
        ]
        items = self.loop.decision.items
        has_all = items is None or items.log == "all"
        if not ranges or "propensities" not in decisions.schema or not has_all:
            return
        doing = f"the audit of propensities of {self.loop.loop}"
        with bounded_duckdb(doing, memory_mb=128, threads=1) as connection:
            on_begin(connection.interrupt)
            rows = source(connection, decisions, version).sql
            query = self._query if items is None else self._query_of_items
            for row in connection.execute(query(rows, " OR ".join(ranges))).fetchall():
                self._add(*row)
        if items is None:
            for each in self.actions.values():
                each.offered = self.decisions

    def _add(
        self,
        action: str | None,
        decisions: int,
        offered: int,
        taken: int,
        impossible: int,
        weight: float,
        *won: float,
    ) -> None:
        self.decisions += decisions
        self.impossible += impossible
        if action is None:
            return
        known = self.actions.setdefault(action, ActionCount())
        known.offered += offered
        known.taken += taken - impossible
        known.weight += weight
        known.won = [before + more for before, more in zip(known.won, won, strict=True)]

    def ratios(self) -> dict[str, float]:
        """Return, by action, how often it was taken over how often it should have been: about 1."""
        return {
            name: each.weight / each.offered for name, each in self.actions.items() if each.offered
        }

    @property
    def wealth(self) -> float:
        """What the best bettor has, for each unit that all of them began with."""
        if self.impossible:
            return math.inf
        best = max(map(self._log_wealth, self.actions.values()), default=0.0)
        return math.exp(min(best - math.log(max(1, len(self.actions))), 700.0))

    @property
    def agrees(self) -> bool:
        """Whether the propensities may be right."""
        return self.wealth < ALARM

    def _log_wealth(self, action: ActionCount) -> float:
        missed = action.offered - action.taken
        logs = [
            won + missed * math.log(1.0 - stake)
            for stake, won in zip(STAKES, action.won, strict=True)
        ]
        best = max(logs)
        return best + math.log(sum(math.exp(each - best) for each in logs) / len(logs))

    def _query(self, rows: str, ranges: str) -> str:
        """Return the query for the counts of each action.

        Fallbacks are no choice of the policy. A decision that was certain says nothing.
        """
        action, propensity, is_explored = self._terms()
        return f"""
            SELECT action, count(*), 0, count(*), {_bets("true")}
            FROM (SELECT {action} AS action, {propensity} AS p FROM {rows} WHERE {_CHOSEN}
                  AND ({ranges})) WHERE p IS NOT NULL AND {is_explored} GROUP BY ALL"""

    def _query_of_items(self, rows: str, ranges: str) -> str:
        """Return the query for the counts of each place of the request, in the same columns.

        The chance of a position is that of the item there, given those before it.
        """
        is_ranking = self.loop.decision.type == "ranking"
        positions = range(POSITIONS if is_ranking else 1)
        could = (
            "each.position IS NULL OR each.position >= slot"
            if is_ranking
            else "each.propensity > 0"
        )
        told = "' of the request at position ' || slot" if is_ranking else "' of the request'"
        return f"""
            WITH chosen AS (
                SELECT items, slot,
                       list_filter(items, lambda each: each.position = slot)[1].propensity AS p
                FROM {rows}, (SELECT unnest({list(positions)}) AS slot)
                WHERE {_CHOSEN} AND ({ranges})
            ), placed AS (
                SELECT slot, p, unnest(items) AS each, generate_subscripts(items, 1) AS place
                FROM chosen WHERE p IS NOT NULL AND p < 1
            ), bets AS (
                SELECT CASE WHEN place <= {PLACES} THEN 'item ' || place || {told} END AS action,
                       slot, p, coalesce(each.position = slot, false) AS is_taken, {could} AS could
                FROM placed
            )
            SELECT action, count(*) FILTER (is_taken AND slot = 0), count(*) FILTER (could),
                   count(*) FILTER (is_taken), {_bets("is_taken")}
            FROM bets GROUP BY ALL"""

    def _terms(self) -> tuple[str, str, str]:
        """Return SQL for the action, its probability, and whether others were possible."""
        policy = self.loop.policy
        if self.loop.decision.type == "ranking":
            return "action[1]", "propensities[1]", "p < 1"
        if policy.spread is None:
            return "action::VARCHAR", "propensity", "p < 1"
        if policy.low is None or policy.high is None:
            return "action::VARCHAR", "NULL::DOUBLE", "false"
        half = (policy.high - policy.low) / 2
        return (
            f"CASE WHEN action < {policy.low + half} THEN 'lower half' ELSE 'upper half' END",
            f"propensity * {half}",
            "true",
        )


_CHOSEN = "verdict IS NULL AND source IN ('model', 'default', 'explore')"


def _bets(taken: str) -> str:
    """Return SQL over what is *taken*: what was impossible, the sum of 1 / p, and each bet."""
    won = ", ".join(
        f"coalesce(sum(ln(1 + {stake} * (1 / p - 1))) FILTER (WHERE {taken} AND p > 0), 0)"
        for stake in STAKES
    )
    impossible = f"count(*) FILTER (WHERE {taken} AND NOT p > 0)"
    weight = f"coalesce(sum(1 / p) FILTER (WHERE {taken} AND p > 0), 0)"
    return f"{impossible}, {weight}, {won}"
