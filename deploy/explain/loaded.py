"""A model of the registry, ready to score as workers do and to tell the parts of a score."""

from dataclasses import dataclass

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.schemas.models.fit import learned_actions
from tidemill.serving.model.admission import policy_score, try_payload
from tidemill.serving.policies.choice import LiveModel, ScoreFunction
from tidemill.trainers.evaluation.evaluation_sets import load_model
from tidemill.trainers.evaluation.model_policies import AdditiveModel
from tidemill.trainers.registry import MODELS, ModelVersion, Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """One model for one version of a loop.

    Attributes:
        record: what the registry says about it.
        signature: what it reads.
        score: scores features as workers do, with the action last where it reads one.
        parts: the same model, which tells what each feature adds.
        live: what the policy of the loop decides by.
    """

    record: ModelVersion
    signature: FeatureSignature
    score: ScoreFunction
    parts: AdditiveModel
    live: LiveModel


def load_version(lake: Lake, loop: Loop, version: str) -> LoadedModel:
    """Return the model *version* of *loop*, after the trial that workers give it.

    Raises:
        LakeError: the lake cannot be read, or does not have the model.
        ModelError: the model is for other features, is broken, or did not survive its trial.
    """
    registry = Registry(lake, loop.loop) if lake.has_table(loop.loop, MODELS) else None
    listed = [] if registry is None else registry.models()
    record = next((model for model in listed if model.version == version), None)
    if registry is None or record is None:
        raise LakeError(
            f"the lake has no model {version} of {loop.loop}",
            hint="if this lake was replayed from the topics, restore its models: "
            f"tidemill model restore {loop.loop}",
        )
    payload, signature = registry.payload(record), record.signature
    record.check_fit(loop)
    score = try_payload(
        loop, version=version, learner=record.learner, payload=payload, signature=signature
    )
    serving = policy_score(score, signature, loop)
    return LoadedModel(
        record=record,
        signature=signature,
        score=score,
        parts=load_model(record, payload),
        live=LiveModel(version, serving, record.trained_on_rows, learned_actions(signature, loop)),
    )
