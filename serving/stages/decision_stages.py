"""The stage of a decision in a loop with a rollout, and the model of that stage."""

from tidemill.schemas.assignment import Assignment, stage_of
from tidemill.schemas.loop.rollout import CONTROL, Rollout
from tidemill.schemas.models.manifest import CANARY
from tidemill.serving.stages.served_models import ServedModel, ServedModels


class DecisionStages:
    """Gives each decision of one loop its stage, by the entity that it is about.

    Args:
        loop: the name of the loop.
        rollout: has the share of the control.
        salt: the salt of the loop.
    """

    def __init__(self, loop: str, rollout: Rollout, salt: str = "") -> None:
        self._number = Assignment(loop, "stage", salt).number
        self._control = rollout.control

    def stage(self, models: ServedModels, unit: str) -> tuple[str, ServedModel | None]:
        """Return the stage of a decision about *unit* while these *models* serve, and its model.

        In the control no model decides.

        Raises:
            UnicodeEncodeError: *unit* is not valid Unicode.
        """
        share = models.share
        if not self._control and not share:
            return "live", models.live
        stage = stage_of(self._number(unit), control=self._control, canary=share)
        if stage == CONTROL:
            return stage, None
        return stage, models.canary if stage == CANARY else models.live
