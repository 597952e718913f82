"""The forms of a loop in which the cases of the join hold: with actions, and with items.

With items, each decision has two and has shown one. Every other feedback names it, the rest name
none, which means the same. So each case has as many examples as with actions, and the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.streams.join_logs import (
    ITEM_RULES,
    RULES,
    D,
    F,
    Logs,
    Shell,
    assert_agrees,
    assert_conserved,
)
from tests.streams.tight import TightShell

from tidemill.streams.join.rules import JoinRules

ITEMS: tuple[tuple[str, int | None], ...] = (("hidden", None), ("shown", 0))


@dataclass(frozen=True)
class Form:
    """A way to bring the logs and the rules of a case before a join."""

    name: str
    has_items: bool

    def shell(self, logs: Logs, rules: JoinRules = RULES) -> Shell:
        """Return a worker that reads *logs*."""
        return Shell(self._logs(logs), self._rules(rules))

    def tight(self, logs: Logs, rules: JoinRules = RULES, **more: int) -> TightShell:
        """Return a worker without memory that reads *logs*."""
        return TightShell(self._logs(logs), self._rules(rules), **more)  # type: ignore[arg-type]

    def played(
        self,
        decisions: Sequence[D],
        feedback: Sequence[F],
        rules: JoinRules = RULES,
        orders: Sequence[F] = (),
    ) -> Shell:
        """Read all logs whole, close everything, and compare the result with the oracle."""
        shell = self.shell(Logs(decisions, feedback, orders), rules)
        shell.finish()
        assert_agrees(shell)
        assert_conserved(shell)
        return shell

    def _rules(self, rules: JoinRules) -> JoinRules:
        if not self.has_items:
            return rules
        return replace(rules, decisions=ITEM_RULES.decisions, feedback=ITEM_RULES.feedback)

    def _logs(self, logs: Logs) -> Logs:
        if not self.has_items:
            return logs
        decisions, *answers = logs
        return Logs([d._replace(items=ITEMS) for d in decisions], *map(_named, answers))


def _named(answers: Sequence[F]) -> list[F]:
    """Return *answers*, every other of which names the item that was shown."""
    return [f._replace(item="shown" if n % 2 else None) for n, f in enumerate(answers)]


FORMS = (Form("actions", has_items=False), Form("items", has_items=True))
