"""What a candidate in shadow would have earned beside the live model, in decisions of others.

Both score the labelled decisions since the candidate came to its stage. Where the label depends on
the action, explored decisions alone say what another action would have brought. Rankings and
choices among items of requests are not compared here: the gate did, and the canary will.
"""

from datetime import datetime

import numpy as np

from tidemill.features.estimates.intervals import Floats, difference
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.sql.judgements import comparable_rows
from tidemill.features.sql.revisions import newest_rows
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.evaluation.action_sets import model_evaluation
from tidemill.trainers.evaluation.evaluation_sets import load_model
from tidemill.trainers.evaluation.gate import default_cost, policy_cost
from tidemill.trainers.evaluation.rewards import Rewards
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rollout.evidence import is_after
from tidemill.trainers.rows import LabeledRows


def shadow_metrics(
    lake: Lake,
    loop: Loop,
    registry: Registry,
    model: ModelVersion,
    since: datetime | None,
    confidence: float,
) -> dict[str, float]:
    """Return the rewards of *model* and of what is live, and the gain with its interval.

    Empty while there are fewer than `gate.min_rows` decisions to compare by.

    Raises:
        LakeError: the lake cannot be read.
    """
    if loop.decision.items is not None:
        return {}
    table = lake.table(loop.loop, EXAMPLES)
    wanted = comparable_rows(lake, loop).expr() & is_after(since)
    found = table.scan()
    if "revision" in table.schema:
        found = newest_rows(found)
    rows = LabeledRows.of_examples(found.filter(wanted).collect(), loop, table.version())
    least = max(2, loop.gate.min_rows)
    if len(rows) < least:
        return {}
    own, its = _earned(loop, registry, model, rows)
    if own.size < least:
        return {}
    gain = difference(own, its, confidence)
    return {
        "reward": float(np.mean(own)),
        "live_reward": float(np.mean(its)),
        "rows": float(own.size),
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_high": gain.high,
    }


def _earned(
    loop: Loop, registry: Registry, model: ModelVersion, rows: LabeledRows
) -> tuple[Floats, Floats]:
    """Return what *model* and what is live would have earned in each of *rows* that says so."""
    live = registry.model()
    own = load_model(model, registry.payload(model))
    if not loop.scores_actions:
        costs = policy_cost(loop, rows.label, own.predict(rows.features))
        if live is None:
            return -costs, -default_cost(loop, rows.label)
        rival = load_model(live, registry.payload(live))
        return -costs, -policy_cost(loop, rows.label, rival.predict(rows.features))
    rewards = Rewards(loop)
    found = model_evaluation(loop, rewards, rows, own, model.signature, model.version)
    terms = found.robust(found.candidate).terms
    if live is None:
        return _finite(terms, found.robust(found.default).terms)
    rival = load_model(live, registry.payload(live))
    other = model_evaluation(loop, rewards, rows, rival, live.signature, live.version)
    return _finite(terms, other.robust(other.candidate).terms)


def _finite(own: Floats, its: Floats) -> tuple[Floats, Floats]:
    known = np.isfinite(own) & np.isfinite(its)
    return own[known], its[known]
