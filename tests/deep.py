"""How many examples a long property tries: a tenth in `make test`, all of them in `make soak`."""

from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import settings

LEAST = 10
Test = TypeVar("Test", bound=Callable[..., None])


def is_soak() -> bool:
    """Return whether this run is a long one: ``pytest --hypothesis-profile soak``."""
    return settings.get_current_profile_name() == "soak"


def examples_now(most: int) -> int:
    """Return *most* in the soak, elsewhere a tenth of it."""
    return most if is_soak() else max(LEAST, most // 10)


def deep(most: int) -> Callable[[Test], Test]:
    """Mark a property that tries *most* examples in the soak and a tenth of them elsewhere."""

    def decorate(test: Test) -> Test:
        marked: Test = pytest.mark.deep(settings(max_examples=examples_now(most))(test))
        return marked

    return decorate
