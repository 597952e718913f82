"""Admission: what a delivered model has to pass before it may decide anything.

`schemas/models/assembler.py` has checked its signature and digest. Admission checks that the model
fits the version of the loop (`schemas/models/fit.py`), that its structure is sound, and that a
child process loads it and scores probe rows with it within limits of time and memory. A model that
crashes or hangs ends the child, not the worker.
"""

import logging
import math
import struct
from collections.abc import Sequence
from random import Random

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.models.assembler import Delivery
from tidemill.schemas.models.feature_signature import (
    ACTION,
    FeatureSignature,
    SignatureField,
    action_text,
)
from tidemill.schemas.models.fit import check_fit, taken_names
from tidemill.schemas.models.online_models import (
    ONLINE_LEARNERS,
    OnlinePredictor,
    online_predictor,
)
from tidemill.schemas.models.posterior import POSTERIOR, Posterior, PosteriorPredictor
from tidemill.serving.model import forest
from tidemill.serving.model.predictor import LightGbmModel, RowModel, doubles
from tidemill.serving.model.trial_process import TrialProcess
from tidemill.serving.policies.choice import Features, ScoreFunction

logger = logging.getLogger(__name__)

PROBES = 256


def admit(delivery: Delivery, loop: Loop, trials: TrialProcess) -> ScoreFunction:
    """Return the scores of a delivered model, ready to serve *loop*, once *trials* has tried it.

    Raises:
        ModelError: the model is for other features, is broken, or did not survive its trial.
    """
    manifest = delivery.manifest
    signature = FeatureSignature.from_json(manifest.features)
    check_fit(
        loop,
        manifest.version,
        signature,
        learner=manifest.learner,
        label_type=manifest.label_type,
        label_digest=manifest.label_digest,
    )
    score = try_payload(
        loop,
        version=manifest.version,
        learner=manifest.learner,
        payload=delivery.payload,
        signature=signature,
        trials=trials,
    )
    return policy_score(score, signature, loop)


def policy_score(score: ScoreFunction, signature: FeatureSignature, loop: Loop) -> ScoreFunction:
    """Return what the policy of *loop* reads of a model whose *score* reads *signature*."""
    if loop.policy.kind == "threshold" and signature.reads_action:
        return advantage(score, loop)
    return score


def advantage(score: ScoreFunction, loop: Loop) -> ScoreFunction:
    """Return what a threshold compares where the label depends on the action.

    It is the predicted label after *above* less that after *below*: what acting adds.
    """
    above, below = action_text(loop.policy.above), action_text(loop.policy.below)
    return lambda features: score((*features, above)) - score((*features, below))


def try_payload(
    loop: Loop,
    *,
    version: str,
    learner: str,
    payload: bytes,
    signature: FeatureSignature,
    trials: TrialProcess | None = None,
) -> ScoreFunction:
    """Return the scores of a model that is not published yet, ready to serve *loop*.

    Trainers ask it before they promote a model, so that none is promoted that workers refuse.
    Without *trials* a child process is started for this model alone.

    Raises:
        ModelError: the model is broken, or did not survive its trial.
    """
    if learner == "lightgbm":
        nullable = {name for name, feature in loop.model_features.items() if feature.nullable}
        if trials is None:
            with TrialProcess() as alone:
                model = _admit_text(version, payload, signature, alone)
        else:
            model = _admit_text(version, payload, signature, trials)
        items = loop.decision.items
        if items is not None:
            return model.item_scorer(signature, nullable, list(loop.features), list(items.features))
        return model.scorer(signature, nullable, taken_names(signature, loop))
    if learner == POSTERIOR:
        return BeliefScore(loop, PosteriorPredictor(Posterior.from_bytes(payload), signature))
    if learner in ONLINE_LEARNERS:
        online = online_predictor(learner, payload, signature)
        return _by_name(online, taken_names(signature, loop))
    raise ModelError(
        f"{version} was trained by {learner!r}, unknown to this worker",
        hint="update the worker; it knows lightgbm, " + ", ".join(ONLINE_LEARNERS),
    )


class BeliefScore:
    """The scores of a posterior, ready to serve *loop*: means, and how sure they are."""

    def __init__(self, loop: Loop, predictor: PosteriorPredictor) -> None:
        self._names = list(loop.features)
        self._actions = loop.decision.actions
        self._predictor = predictor

    def __call__(self, features: Features) -> float:
        """Return the label expected after the action that is the last of *features*."""
        row = dict(zip((*self._names, ACTION), features, strict=True))
        return self._predictor.score(row)

    def beliefs(self, features: Features) -> tuple[list[float], list[float]]:
        """Return the label expected after each action of the loop, and its deviation."""
        row = dict(zip(self._names, features, strict=True))
        return self._predictor.beliefs(row, self._actions)


def _by_name(model: OnlinePredictor, names: Sequence[str]) -> ScoreFunction:
    """Return the scores of a model that reads features by name, from the values of *names*."""
    return lambda features: model.score(dict(zip(names, features, strict=True)))


def _admit_text(
    version: str, payload: bytes, signature: FeatureSignature, trials: TrialProcess
) -> RowModel:
    if not payload.isascii():
        raise ModelError(
            f"{version} is no LightGBM text: it is not ASCII", hint="publish it as the trainer does"
        )
    rows, columns = probe_rows(signature), len(signature.columns)
    scores, trees = trials.run(payload, rows)
    if forest.is_built():
        model: RowModel = forest.Forest(trees, columns)
    else:
        logger.warning(
            "trees.c was not compiled: %s is scored by LightGBM itself, which is slower", version
        )
        model = LightGbmModel(payload.decode("ascii"), columns)
    together = model.scores(doubles([number for row in rows for number in row]))
    for row, score, among in zip(rows, scores, together, strict=True):
        for found in (model.predict(row), among):
            if struct.pack("d", found) != struct.pack("d", score) or not math.isfinite(found):
                raise ModelError(
                    f"{version} scores a probe as {found} here and {score} in its trial",
                    hint="train the model again and publish it",
                )
    return model


def probe_rows(signature: FeatureSignature) -> list[list[float]]:
    """Return rows to try a model on: missing values, extremes, and a fixed choice of others."""
    random = Random(0)
    width = len(signature.columns)
    rows = [[math.nan] * width, [0.0] * width, [1e300] * width, [-1e300] * width]
    while len(rows) < PROBES:
        features = {field.name: _probe(field, random) for field in signature.fields}
        rows.append(signature.encode_row(features))
    return rows


def _probe(field: SignatureField, random: Random) -> object:
    if field.vocabulary and field.type is FieldType.CATEGORY:
        return random.choice(field.vocabulary)
    if field.type is FieldType.CATEGORIES:
        return [word for word in field.vocabulary if random.random() < 0.5]
    if field.type is FieldType.BOOL:
        return random.random() < 0.5
    if field.type in (FieldType.FLOAT, FieldType.INT) and field.name != ACTION:
        return random.choice(
            (random.gauss(0, 1), random.gauss(0, 1000), float(random.randrange(30)))
        )
    return None
