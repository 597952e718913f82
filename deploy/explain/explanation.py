"""`Explainer`: makes logged decisions again, and says what they were made of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from tidemill.deploy.explain.contributions import (
    ScoreParts,
    item_parts,
    item_scores,
    score_parts,
)
from tidemill.deploy.explain.loaded import LoadedModel, load_version
from tidemill.deploy.explain.logged import GivenAnswer, LoggedDecision, read_logged
from tidemill.deploy.explain.remade import REMADE, differing, remade_answer
from tidemill.deploy.explain.wording import exploration_sentence, nothing_more, policy_sentence
from tidemill.deploy.rules.rule_history import RuleHistory
from tidemill.errors import LakeError, RequestError
from tidemill.features.lake.lake import Lake
from tidemill.serving.policies.applied_rules import Rules
from tidemill.serving.policies.choice import LiveModel
from tidemill.trainers.registry import ModelVersion

_SHOWN = 5  # ids in an error


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
        nothing_more: why there are no parts of a score, or no answer again; empty if there are.
        item_scores: by id, the score of each item that the request brought, if a model scored.
    """

    logged: LoggedDecision
    remade: GivenAnswer | None
    differences: Sequence[str]
    model: ModelVersion | None
    scored: Sequence[ScoreParts]
    policy: str
    exploration: str
    nothing_more: str
    item_scores: Mapping[str, float] = field(default_factory=dict)

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
            "stage": logged.stage,
            "rule_version": logged.rule_version,
            "logged": logged.answer.to_json(),
            "remade": None if self.remade is None else self.remade.to_json(),
            "differences": list(self.differences),
            "model": None if self.model is None else _record(self.model),
            "scored": [parts.to_json() for parts in self.scored],
            "policy": self.policy,
            "exploration": self.exploration,
            "nothing_more": self.nothing_more,
            **({"items": self._items()} if logged.items else {}),
        }

    def _items(self) -> list[dict[str, object]]:
        """Return the items as plain values, each with its score."""
        return [
            {**asdict(item), "score": self.item_scores.get(item.id)} for item in self.logged.items
        ]


class Explainer:
    """Explains the decisions of one loop; each model is loaded once.

    Args:
        lake: where decisions and models are.
        loop_name: which loop.
    """

    def __init__(self, lake: Lake, loop_name: str) -> None:
        self._lake, self._loop_name = lake, loop_name
        self._loaded: dict[tuple[str, int], LoadedModel] = {}

    def explain(self, id_: str, item: str | None = None) -> Explanation | None:
        """Return the explanation of the decision *id_*; None if the lake does not have it.

        With *item*, the parts are those of that item beside those of the one that was taken.

        Raises:
            RequestError: the decision has no such item.
            LakeError: the lake cannot be read, or no longer has the model.
            ModelError: the model cannot be loaded.
        """
        logged = read_logged(self._lake, self._loop_name, id_)
        if logged is None:
            return None
        if item is not None:
            _check_item(logged, item)
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
            return _with_answer(found, None, self._rules(logged))
        return self._by_model(found, logged.answer.model_version, item)

    def _by_model(self, found: Explanation, version: str, item: str | None) -> Explanation:
        logged = found.logged
        key = version, logged.loop.version
        if key not in self._loaded:
            self._loaded[key] = load_version(self._lake, logged.loop, version)
        loaded = self._loaded[key]
        found = _with_answer(found, loaded.live, self._rules(logged))
        answer = found.remade or logged.answer
        taken = answer.action if answer.policy_action is None else answer.policy_action
        if logged.loop.decision.items is not None:
            scored = item_parts(logged, loaded.parts, loaded.score, taken, item)
            found = replace(found, item_scores=item_scores(logged, loaded.score))
        else:
            scored = score_parts(logged, loaded.parts, loaded.signature, loaded.score, taken)
        reads = loaded.signature.reads_action
        sentence = policy_sentence(logged.loop.policy, reads_action=reads)
        return replace(found, model=loaded.record, scored=scored, policy=sentence)

    def _rules(self, logged: LoggedDecision) -> Rules | None:
        """Return the rules that were in force at a decision.

        Raises:
            LakeError: the lake does not have that version of them.
        """
        if logged.rule_version is None:
            return None
        records = RuleHistory(self._lake, self._loop_name).records()
        record = next((one for one in records if one.version == logged.rule_version), None)
        if record is None:
            raise LakeError(
                f"the lake has no version {logged.rule_version} of the rules of {self._loop_name}",
                hint="was the table of rules lost? the decision cannot be made again without it",
            )
        return Rules(record, logged.loop)


def _check_item(logged: LoggedDecision, item: str) -> None:
    """Check that the log has *item* among what was chosen from.

    Raises:
        RequestError: it has not.
    """
    ids = [each.id for each in logged.items]
    if item not in ids:
        first = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
        raise RequestError(
            f"decision {logged.id} has no item {item!r} in the log",
            hint=f"name one of its {len(ids)} items: {first}"
            if ids
            else "leave out --item: its request brought no items",
        )


def _with_answer(found: Explanation, model: LiveModel | None, rules: Rules | None) -> Explanation:
    if not found.logged.has_all:
        return replace(found, exploration=exploration_sentence(found.logged, model))
    remade = remade_answer(found.logged, model, rules)
    return replace(
        found,
        remade=remade,
        differences=tuple(differing(found.logged.answer, remade)),
        exploration=exploration_sentence(found.logged, model),
    )


def _record(model: ModelVersion) -> Mapping[str, object]:
    """Return *model* without its signature, which is long."""
    return {name: value for name, value in asdict(model).items() if name != "features"}
