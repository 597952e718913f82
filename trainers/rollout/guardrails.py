"""Guardrails: whether what is known of a candidate, or of the live model, is a reason to stop it.

The trainer looks again and again. It looks at 50, 100, 200 ... decisions and once at those that a
stage asks for, each time at the first so many. The k-th look may err with a part of the error of
the gate (`spent_confidence`). So a good candidate is stopped by chance no more often than the gate
promotes a bad one, however often the trainer looks, and a restarted trainer sees the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl
from scipy import stats

from tidemill.features.estimates.sequences import spent_confidence
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.rollout import Guardrails, Rollout
from tidemill.trainers.rollout.evidence import Comparison, StageRewards, fallback_share
from tidemill.trainers.rows import FALLBACK

FIRST_LOOK = 50
"""Labelled decisions at which a group is looked at first; then at twice as many each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is known of a candidate in its stage.

    Attributes:
        rows: its decisions so far, of those that its stage asks for.
        wanted: how many its stage asks for.
        problem: why it has to be stopped; empty if its guardrails hold.
        metrics: its own and those of what it is compared with.
    """

    rows: int
    wanted: int
    problem: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether it has done all that its stage asks for."""
        return self.rows >= self.wanted and not self.problem


def looks(rows: int) -> int:
    """Return how often a group of so many *rows* has been looked at.

    >>> looks(49), looks(50), looks(199), looks(200)
    (0, 1, 2, 3)
    """
    return (rows // FIRST_LOOK).bit_length()


def compared(
    loop: Loop, rewards: StageRewards, own: pl.Expr, other: pl.Expr, *, wanted: int | None = None
) -> Comparison:
    """Compare two groups at the present look; one look more is at *wanted* rows, if there are."""
    rows = len(rewards.rows.filter(own))
    look = looks(rows)
    most = FIRST_LOOK << (look - 1) if look else 0
    if wanted is not None and most < wanted <= rows:
        look, most = look + 1, wanted
    confidence = spent_confidence(max(1, look), loop.gate.confidence)
    return rewards.compare(own, other, confidence, most=most)


def reward_problem(loop: Loop, found: Comparison, version: str, other: str) -> str:
    """Return why *found* is below the guardrail; empty if it is not, or that may be chance."""
    least = guardrails_of(loop).reward
    gain = found.gain
    if not gain.high < least:
        return ""
    return (
        f"{version} earns {gain.mean:+.4f} a decision beside {other}, between {gain.low:.4f} and "
        f"{gain.high:.4f}, on {found.own.rows:,} decisions; the guardrail is {least:g}"
    )


def fallback_problem(
    loop: Loop, sources: Mapping[str, int], version: str, *, is_complete: bool
) -> str:
    """Return why too many canary decisions fell back to the default; empty if they did not.

    Before the stage is complete the share must exceed the guardrail by more than chance explains.
    """
    most, failed, rows = (
        guardrails_of(loop).fallbacks,
        sources.get(FALLBACK, 0),
        sum(sources.values()),
    )
    if not failed or failed <= most * rows:
        return ""
    error = 1.0 - spent_confidence(max(1, looks(rows)), loop.gate.confidence)
    if not is_complete and float(stats.beta.ppf(error, failed, rows - failed + 1)) <= most:
        return ""
    share = fallback_share(sources)
    return (
        f"{version} failed or was too slow in {share:.1%} of {rows:,} decisions; the guardrail is "
        f"{most:.1%}"
    )


def guardrails_of(loop: Loop) -> Guardrails:
    """Return the guardrails of *loop*; those of a rollout that states none if it has none."""
    return (loop.rollout or Rollout()).guardrails
