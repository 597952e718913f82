"""Deciders of loops with a rollout, and models that the tests put into their slots."""

from tests.serving.models import FEATURES, banner

from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.choice import LiveModel, ScoreFunction
from tidemill.serving.stages.served_models import FailureStreak, ServedModel, ServedModels
from tidemill.serving.stages.shadow_thread import ShadowThread

CONTROL = 0.1
SHARE = 0.25


def staged_loop(**changes: object) -> Loop:
    """Return the usual loop with a rollout, a greedy policy that explores, and *changes*."""
    parts: dict[str, object] = {
        "rollout": {"control": CONTROL},
        "policy": {"kind": "greedy", "epsilon": 0.5},
        "salt": "a",
    }
    return banner(**(parts | changes))


def staged_decider(
    log: MemoryEventLog, loop: Loop | None = None, shadows: ShadowThread | None = None
) -> Decider:
    """Return a decider of a loop with a rollout."""
    return Decider(loop or staged_loop(), store=MemorySchemaStore(), log=log, shadows=shadows)


def preferring(action: str) -> ScoreFunction:
    """Return scores of a model that prefers *action*."""
    return lambda features: 0.75 if features[-1] == action else 0.25


def served(version: str, score: ScoreFunction, rest_s: float = 0.0) -> ServedModel:
    """Return a model as it is in a slot; one that fails rests for *rest_s*."""
    return ServedModel(LiveModel(version, score), FailureStreak(rest_s))


def three_models() -> ServedModels:
    """Return a live model that hides, and a canary and a shadow that show."""
    return ServedModels(
        live=served("live-1", preferring("hide")),
        canary=served("canary-2", preferring("show")),
        shadow=served("shadow-3", preferring("show")),
        share=SHARE,
    )


def ask(decider: Decider, number: int, **more: object) -> DecisionResult:
    """Decide about the entity of this *number*."""
    named = {"id": f"d-{number}", "entity": f"user-{number}", **more}
    return decider.decide(decider.decisions.check(FEATURES, **named))  # type: ignore[arg-type]
