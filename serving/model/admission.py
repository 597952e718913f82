"""Admission: what a delivered model has to pass before it may decide anything.

`schemas/models/assembler.py` has checked its signature and digest. Admission checks that the model
fits the version of the loop (`schemas/models/fit.py`), that its structure is sound, and that a
child process loads it and scores probe rows with it within limits of time and memory. A model that
crashes or hangs ends the child, not the worker.
"""

import logging
import math
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import msgspec

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
from tidemill.serving.model.trial import REFUSED, TrialRequest
from tidemill.serving.policies.choice import Features, ScoreFunction

logger = logging.getLogger(__name__)

PROBES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLimits:
    """What the child process may use; beyond it the model is refused."""

    time_s: float = 20.0  # ample for starting Python and loading 64 MB of trees
    memory_bytes: int = 2**30
    score_ms: float = 50.0  # of one probe, on average


def admit(delivery: Delivery, loop: Loop, limits: TrialLimits) -> ScoreFunction:
    """Return the scores of a delivered model, ready to serve *loop*.

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
        limits=limits,
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
    limits: TrialLimits | None = None,
) -> ScoreFunction:
    """Return the scores of a model that is not published yet, ready to serve *loop*.

    Trainers ask it before they promote a model, so that none is promoted that workers refuse.

    Raises:
        ModelError: the model is broken, or did not survive its trial.
    """
    if learner == "lightgbm":
        nullable = {name for name, feature in loop.model_features.items() if feature.nullable}
        model = _admit_text(version, payload, signature, limits or TrialLimits())
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
    version: str, payload: bytes, signature: FeatureSignature, limits: TrialLimits
) -> RowModel:
    try:
        text = payload.decode("ascii")
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{version} is no LightGBM text: {error}", hint="publish it as the trainer does"
        ) from error
    rows, columns = probe_rows(signature), len(signature.columns)
    scores, trees = try_in_child(text, rows, limits)
    if forest.is_built():
        model: RowModel = forest.Forest(trees, columns)
    else:
        logger.warning(
            "trees.c was not compiled: %s is scored by LightGBM itself, which is slower", version
        )
        model = LightGbmModel(text, columns)
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


def try_in_child(
    text: str, rows: list[list[float]], limits: TrialLimits
) -> tuple[list[float], bytes]:
    """Check *text* in a process of its own; return its scores of *rows*, and the trees packed.

    Raises:
        ModelError: the text is not sound, or the process crashed, hung, took too much memory or
            was too slow.
    """
    return run_trial([sys.executable, "-m", "tidemill.serving.model.trial"], text, rows, limits)


def run_trial(
    command: list[str], text: str, rows: list[list[float]], limits: TrialLimits
) -> tuple[list[float], bytes]:
    """Run *command* as the trial of *text*; see `try_in_child`."""
    trial = TrialRequest(
        text=text,
        rows=[struct.pack(f"{len(row)}d", *row) for row in rows],
        memory_bytes=limits.memory_bytes,
        score_ms=limits.score_ms,
        time_s=math.ceil(limits.time_s),
    )
    try:
        done = subprocess.run(
            command, input=msgspec.msgpack.encode(trial), capture_output=True, timeout=limits.time_s
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(f"hung for {limits.time_s:g} s") from error
    except OSError as error:
        raise _failed(f"could not start: {error.strerror}") from error
    scores, trees = done.stdout[: 8 * len(rows)], done.stdout[8 * len(rows) :]
    if done.returncode or len(scores) != 8 * len(rows):
        words = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:500]
        if done.returncode == REFUSED and words:
            raise ModelError(words, hint=_HINT)
        raise _failed(f"ended with status {done.returncode}: {words}")
    return list(struct.unpack(f"{len(rows)}d", scores)), trees


def _failed(how: str) -> ModelError:
    return ModelError(f"the trial of the model in a child process {how}", hint=_HINT)


_HINT = "the model is broken or too large for serving: train it again, with fewer leaves"
