"""The port through which a trainer has a model loaded as serving workers will load it."""

from typing import Protocol

from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import FeatureSignature


class Trial(Protocol):
    """Loads a model as a serving worker will, before it is promoted."""

    def __call__(
        self,
        loop: Loop,
        /,
        *,
        version: str,
        learner: str,
        payload: bytes,
        signature: FeatureSignature,
    ) -> object:
        """Return anything if a worker would serve the model.

        Raises:
            ModelError: workers would refuse it.
        """


def no_trial(_loop: Loop, /, **_model: object) -> None:
    """Accept each model: for tests and notebooks, where nothing serves it."""
