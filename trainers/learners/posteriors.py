"""The learner of posteriors: Bayesian linear regression for each action, in closed form.

It is trained in batch on a snapshot, like LightGBM: the result is that of updating it example by
example, without a state that could be lost. The prior of the weights has the variance of the noise,
which is that of the labels.

Source: L. Li, W. Chu, J. Langford, R. E. Schapire, "A contextual-bandit approach to personalized
news article recommendation", WWW 2010 (disjoint linear models).
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.schemas.models.feature_signature import (
    ACTION,
    FeatureSignature,
    scored_actions,
)
from tidemill.schemas.models.posterior import (
    MAX_COLUMNS,
    POSTERIOR,
    ActionPosterior,
    Design,
    NumberScale,
    Posterior,
)
from tidemill.schemas.models.river_state import RowMapping
from tidemill.trainers.learners.batch import Stopwatch, Trained, check_rows, software
from tidemill.trainers.rows import LabeledRows

LEAST_NOISE = 1e-4  # where all labels are equal, nothing is certain yet


def train_posterior(rows: LabeledRows, loop: Loop, batch: Batch) -> Trained:
    """Learn *rows* and return the model; a `ucb` policy reads no feature.

    Raises:
        ModelError: there are no rows.
    """
    del batch  # it has no setting for this learner
    check_rows(rows, loop)
    watch = Stopwatch()
    signature = FeatureSignature.of_loop(loop).fit(rows.features)
    scales, flags = ([], []) if loop.policy.kind == "ucb" else _columns(rows.features, signature)
    design = Design(scales, flags, signature)
    matrix = np.array([design(row) for row in rows.features.iter_rows(named=True)])
    base = rows.mean_label
    noise = max(float(np.var(rows.label)), LEAST_NOISE)
    taken = rows.features[ACTION].to_numpy()
    model = Posterior(
        base=base,
        scales=tuple(scales),
        flags=tuple(flags),
        actions=tuple(
            _action(action, matrix[taken == action], rows.label[taken == action] - base, noise)
            for action in scored_actions(loop)
        ),
    )
    return Trained(
        learner=POSTERIOR,
        payload=model.to_bytes(),
        signature=signature,
        snapshot=rows.snapshot,
        rows=len(rows),
        base_rate=base,
        seed=0,
        params={"noise": noise, "columns": design.columns},
        software=software("numpy", "polars"),
        cost=watch.read(),
    )


def _action(action: str, x: Floats, label: Floats, noise: float) -> ActionPosterior:
    """Return the posterior of one action: precision 1 + x'x, in units of the noise."""
    precision = np.eye(x.shape[1]) + x.T @ x
    weights = np.linalg.solve(precision, x.T @ label)
    lower = np.linalg.cholesky(precision)
    factor = np.sqrt(noise) * np.linalg.inv(lower).T  # its square is noise times the inverse
    return ActionPosterior(action, len(x), tuple(weights.tolist()), tuple(factor.ravel().tolist()))


def _columns(
    features: pl.DataFrame, signature: FeatureSignature
) -> tuple[list[NumberScale], list[str]]:
    """Return the numbers and the flags that are read: the most frequent, if there are too many."""
    mapping = RowMapping(field for field in signature.fields if field.name != ACTION)
    numbers: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for row in features.iter_rows(named=True):
        found, flags = mapping(row)
        for name, value in found.items():
            numbers.setdefault(name, []).append(value)
        for flag in flags:
            counts[flag] = counts.get(flag, 0) + 1
    scales = [*_scales(numbers)][: MAX_COLUMNS - 1]
    frequent = sorted(counts, key=lambda flag: (-counts[flag], flag))
    return scales, sorted(frequent[: MAX_COLUMNS - 1 - len(scales)])


def _scales(numbers: Mapping[str, list[float]]) -> list[NumberScale]:
    """Return the scale of each number that is not always the same."""
    found = []
    for name, values in numbers.items():
        deviation = float(np.std(values))
        if deviation > 0.0 and np.isfinite(deviation):
            found.append(NumberScale(name, float(np.mean(values)), deviation))
    return found
