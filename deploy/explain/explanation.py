"""`Explainer`: makes logged decisions again, and says what they were made of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tidemill.deploy.explain.contributions import ScoreParts, score_parts
from tidemill.deploy.explain.logged import GivenAnswer, LoggedDecision, read_logged
from tidemill.deploy.explain.remade import REMADE, differing, remade_answer
from tidemill.deploy.explain.wording import exploration_sentence, nothing_more, policy_sentence
from tidemill.errors import LakeError
from tidemill.features.lake.lake import Lake
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.serving.model.admission import policy_score, try_payload
from tidemill.serving.policies.choice import LiveModel, ScoreFunction
from tidemill.trainers.evaluation.evaluation_sets import load_model
from tidemill.trainers.learners.batch import LightGBM
from tidemill.trainers.learners.online import FrozenLinear
from tidemill.trainers.registry import MODELS, ModelVersion, Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is known about how a decision came about.

    Attributes:
        logged: the decision as the lake has it.
        remade: the same answer once more; None if no worker made it.
        differences: the names of the values that are not the same bit for bit.
        model: the record of the model that scored; None if none did.
        scored: the score and its parts, first of the action that the policy took.
        policy: how the policy acts.
        exploration: how much it explores.
        nothing_more: why there are no parts of a score; empty if there are.
    """

    logged: LoggedDecision
    remade: GivenAnswer | None
    differences: Sequence[str]
    model: ModelVersion | None
    scored: Sequence[ScoreParts]
    policy: str
    exploration: str
    nothing_more: str

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        logged = self.logged
        return {
            "loop": logged.loop.loop,
            "loop_version": logged.loop.version,
            "policy_version": logged.loop.policy.version,
            "id": logged.id,
            "at": logged.at,
            "entity": logged.entity,
            "verdict": logged.verdict,
            "features": logged.features,
            "baseline": logged.baseline,
            "logged": asdict(logged.answer),
            "remade": None if self.remade is None else asdict(self.remade),
            "differences": list(self.differences),
            "model": None if self.model is None else _record(self.model),
            "scored": [parts.to_json() for parts in self.scored],
            "policy": self.policy,
            "exploration": self.exploration,
            "nothing_more": self.nothing_more,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """One model: its record, what workers score with, and what tells the parts of a score."""

    record: ModelVersion
    signature: FeatureSignature
    score: ScoreFunction
    parts: LightGBM | FrozenLinear


class Explainer:
    """Explains the decisions of one loop; each model is loaded once.

    Args:
        lake: where decisions and models are.
        loop_name: which loop.
    """

    def __init__(self, lake: Lake, loop_name: str) -> None:
        self._lake, self._loop_name = lake, loop_name
        self._loaded: dict[tuple[str, int], _Loaded] = {}
        self._payloads: Registry | None = None

    def explain(self, id_: str) -> Explanation | None:
        """Return the explanation of the decision *id_*; None if the lake does not have it.

        Raises:
            LakeError: the lake cannot be read, or no longer has the model.
            ModelError: the model cannot be loaded.
        """
        logged = read_logged(self._lake, self._loop_name, id_)
        if logged is None:
            return None
        policy = logged.loop.policy
        found = Explanation(
            logged=logged,
            remade=None,
            differences=(),
            model=None,
            scored=(),
            policy=policy_sentence(policy, reads_action=logged.loop.scores_actions),
            exploration="not known",
            nothing_more=nothing_more(logged),
        )
        if logged.answer.source not in REMADE:
            return found
        if logged.answer.model_version is None:
            return _with_answer(found, None)
        return self._by_model(found, logged.answer.model_version)

    def _by_model(self, found: Explanation, version: str) -> Explanation:
        logged = found.logged
        loaded = self._model(logged, version)
        score = policy_score(loaded.score, loaded.signature, logged.loop)
        model = LiveModel(version, score, loaded.record.trained_on_rows)
        found = _with_answer(found, model)
        answer = found.remade or logged.answer
        taken = answer.action if answer.policy_action is None else answer.policy_action
        scored = score_parts(logged, loaded.parts, loaded.signature, loaded.score, taken)
        reads = loaded.signature.reads_action
        sentence = policy_sentence(logged.loop.policy, reads_action=reads)
        return replace(found, model=loaded.record, scored=scored, policy=sentence)

    def _model(self, logged: LoggedDecision, version: str) -> _Loaded:
        key = version, logged.loop.version
        if key in self._loaded:
            return self._loaded[key]
        registry = self._registry()
        for record in registry.models() if registry is not None else ():
            if record.version == version and registry is not None:
                payload, signature = registry.payload(record), record.signature
                score = try_payload(
                    logged.loop,
                    version=version,
                    learner=record.learner,
                    payload=payload,
                    signature=signature,
                )
                parts = load_model(record, payload)
                self._loaded[key] = _Loaded(
                    record=record, signature=signature, score=score, parts=parts
                )
                return self._loaded[key]
        raise LakeError(
            f"the lake has no model {version} of {self._loop_name}, which made {logged.id}",
            hint="if this lake was replayed from the topics, restore its models: "
            f"tidemill model restore {self._loop_name}",
        )

    def _registry(self) -> Registry | None:
        if self._payloads is None and self._lake.has_table(self._loop_name, MODELS):
            self._payloads = Registry(self._lake, self._loop_name)
        return self._payloads


def _with_answer(found: Explanation, model: LiveModel | None) -> Explanation:
    remade = remade_answer(found.logged, model)
    return replace(
        found,
        remade=remade,
        differences=tuple(differing(found.logged.answer, remade)),
        exploration=exploration_sentence(found.logged, model),
    )


def _record(model: ModelVersion) -> Mapping[str, object]:
    """Return *model* without its signature, which is long."""
    return {name: value for name, value in asdict(model).items() if name != "features"}
