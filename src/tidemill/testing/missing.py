"""What a test does without the server that it needs."""

import os
from typing import Never

import pytest


def unavailable(what: str, error: Exception) -> Never:
    """Skip on a laptop, fail in CI: there, a missing server would hide half of the tests."""
    message = f"{what} could not be started: {error}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
