"""The lake that the environment names, and the loops of it that a command is about."""

import os

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Lake, LakeConfig


def open_lake() -> Lake:
    """Return the lake of TIDEMILL_LAKE.

    Raises:
        ConfigError: the variable is not set.
    """
    return Lake(LakeConfig.from_env(os.environ))


def lake_if_set() -> Lake | None:
    """Return the lake of TIDEMILL_LAKE; None if the variable is not set."""
    return open_lake() if os.environ.get("TIDEMILL_LAKE") else None


def chosen_loops(lake: Lake, loop: str | None) -> list[str]:
    """Return the name *loop*, or the names of all loops of *lake* if it is None.

    Raises:
        LakeError: all are asked for and there are none: more often a wrong address than a new lake.
    """
    if loop is not None:
        return [loop]
    names = lake.loops()
    if not names:
        raise LakeError(
            f"the lake at {lake.root} has no loops",
            hint="start a worker for a published loop first, or check TIDEMILL_LAKE",
        )
    return names
