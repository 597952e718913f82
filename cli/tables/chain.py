"""How fresh each link of the chain from decision to serving worker is."""

import math
from collections.abc import Sequence

from rich.table import Table

from tidemill.cli.terminal import WRONG, add_row, new_table
from tidemill.monitor.chain import Chain
from tidemill.monitor.observer import Status

_SHOWN = 20  # bad records


def chain_table(chains: Sequence[Chain]) -> Table:
    """Return one row for each loop, from decision to worker: trouble first, the idle ones last."""
    table = new_table(
        "loop",
        "decision",
        "feedback",
        "example",
        "closed until",
        "model",
        "swapped",
        "workers",
        numbers=("workers",),
    )
    for chain in sorted(chains, key=_urgency):
        refused = f" {chain.refused} refused" if chain.refused else ""
        add_row(
            table,
            chain.loop,
            _ago(chain.decision_age_s),
            _ago(chain.feedback_age_s),
            _ago(chain.example_age_s),
            chain.closed_until and chain.closed_until.replace(microsecond=0),
            chain.model,
            _ago(chain.model_age_s),
            f"{chain.serving}/{chain.workers}{refused}",
            style=WRONG if chain.refused else None,
        )
    return table


def _urgency(chain: Chain) -> tuple[bool, float]:
    ages = (chain.decision_age_s, chain.feedback_age_s, chain.example_age_s)
    return not chain.refused, min((age for age in ages if age is not None), default=math.inf)


def troubles(status: Status) -> list[str]:
    """Return a line for each loop that could not be read, and for each bad record."""
    unread = [f"{name} could not be read: {why}" for name, why in status.unread.items()]
    bad = [f"a bad record is passed over: {each}" for each in status.bad_records]
    more = [f"and {len(bad) - _SHOWN} more, see --json"] if len(bad) > _SHOWN else []
    return [*unread, *bad[:_SHOWN], *more]


def _ago(age_s: float | None) -> str | None:
    if age_s is None:
        return None
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= size:
            return f"{age_s / size:.1f} {unit} ago"
    return f"{age_s:.1f} s ago"
