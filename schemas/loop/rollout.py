"""How a candidate comes to decide: in stages, with a control that stays, within guardrails.

Without this section a model that the gate promotes decides at once for everybody.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from tidemill.schemas.loop.fields import Value, wrong

Stage = Literal["shadow", "canary", "live"]
STAGES: tuple[Stage, ...] = ("shadow", "canary", "live")
"""In the order in which a candidate goes through them."""
CONTROL = "control"
"""The stage of decisions that the default or the baseline makes, for ever."""


class ShadowStage(Value):
    """The stage in which a candidate scores decisions that others make, for so many *rows*."""

    rows: int = Field(default=500, ge=1)


class CanaryStage(Value):
    """The stage in which a candidate makes a *share* of the decisions, until *rows* have labels."""

    share: float = Field(default=0.05, gt=0.0, le=0.5, allow_inf_nan=False)
    rows: int = Field(default=1_000, ge=1)


class Guardrails(Value):
    """When a candidate is stopped, and a live model falls back to the one before.

    *fallbacks* is the largest share of its decisions in which it failed or was too slow. *reward*
    is the least gain over what it is compared with: it is stopped once its gain is below that
    beyond the interval of the gate.
    """

    fallbacks: float = Field(default=0.01, ge=0.0, le=1.0, allow_inf_nan=False)
    reward: float = Field(default=0.0, allow_inf_nan=False)


class Rollout(Value):
    """The *stages* of a candidate, and the share of decisions in *control*.

    A candidate stays in the last of its stages until a person promotes it, unless that is live.
    Control decisions are made by the default, or by the baseline of the request, so that whether
    the loop helps always has an answer.
    """

    stages: list[Stage] = Field(default=["canary", "live"], min_length=1)
    shadow: ShadowStage = ShadowStage()
    canary: CanaryStage = CanaryStage()
    control: float = Field(default=0.0, ge=0.0, le=0.5, allow_inf_nan=False)
    guardrails: Guardrails = Guardrails()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        places = [STAGES.index(stage) for stage in self.stages]
        if places != sorted(set(places)):
            raise wrong(
                f"the stages {', '.join(self.stages)} are not in their order, or one is repeated",
                hint=f"list some of {', '.join(STAGES)} in this order, each once",
                at=("stages",),
            )
        return self
