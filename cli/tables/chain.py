"""How fresh each link of the chain from decision to serving worker is."""

import math
from collections.abc import Sequence

from rich.table import Table

from tidemill.cli.terminal import WRONG, add_row, new_table
from tidemill.monitor.chain import Chain
from tidemill.monitor.observer import Status

_SHOWN = 20  # bad records
SILENT_S = 60.0
"""A trainer without a heartbeat for so long has stopped; it sends one every ten seconds."""


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
        "trainer",
        numbers=("workers",),
    )
    for chain in sorted(chains, key=_urgency):
        add_row(
            table,
            chain.loop,
            _ago(chain.decision_age_s),
            _ago(chain.feedback_age_s),
            _ago(chain.example_age_s),
            chain.closed_until and chain.closed_until.replace(microsecond=0),
            chain.model,
            _ago(chain.model_age_s),
            _workers(chain),
            _trainer(chain),
            style=WRONG if _is_wrong(chain) else None,
        )
    return table


def _workers(chain: Chain) -> str:
    """Return how many workers serve the newest model, of how many, and what is wrong with that."""
    refused = f" {chain.refused} refused" if chain.refused else ""
    unverified = " unverified" if chain.unverified else ""
    return f"{chain.serving}/{chain.workers}{refused}{unverified}"


def _trainer(chain: Chain) -> str | None:
    """Return how the trainer is: since when it is silent, or what it has not learned yet."""
    if chain.retired:
        return f"retired: {chain.retired}"
    if chain.trainer_age_s is None:
        return None
    behind = f", {chain.backlog} behind" if chain.backlog else ""
    if _has_stopped(chain):
        return f"last seen {_ago(chain.trainer_age_s)}{behind}"
    return f"alive{behind}"


def _has_stopped(chain: Chain) -> bool:
    return chain.trainer_age_s is not None and chain.trainer_age_s > SILENT_S


def _is_wrong(chain: Chain) -> bool:
    return not chain.retired and (chain.refused > 0 or _has_stopped(chain))


def _urgency(chain: Chain) -> tuple[bool, float]:
    ages = (chain.decision_age_s, chain.feedback_age_s, chain.example_age_s)
    return not _is_wrong(chain), min((age for age in ages if age is not None), default=math.inf)


def troubles(status: Status) -> list[str]:
    """Return a line for each loop that could not be read, each silent trainer, each bad record."""
    unread = [f"{name} could not be read: {why}" for name, why in status.unread.items()]
    bad = [f"a bad record is passed over: {each}" for each in status.bad_records.value or ()]
    more = [f"and {len(bad) - _SHOWN} more, see --json"] if len(bad) > _SHOWN else []
    chains = status.chains.value.rows if status.chains.value else ()
    silent = [_silence(chain) for chain in chains if _has_stopped(chain)]
    return [*unread, *silent, *bad[:_SHOWN], *more]


def _silence(chain: Chain) -> str:
    verdict = f"; its last verdict: {chain.verdict}" if chain.verdict else ""
    return (
        f"the trainer of {chain.loop} was last seen {_ago(chain.trainer_age_s)}, and "
        f"{chain.backlog:,} commits of examples wait for it{verdict}; start it again: tidemill "
        f"train {chain.loop}"
    )


def _ago(age_s: float | None) -> str | None:
    if age_s is None:
        return None
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= size:
            return f"{age_s / size:.1f} {unit} ago"
    return f"{age_s:.1f} s ago"
