"""What all tests share: Hypothesis profiles, and the servers of `tidemill.testing`."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

pytest_plugins = ["tidemill.testing.kafka", "tidemill.testing.s3"]

# A busy machine is no failure: Hypothesis looks for wrong results here, not for slow ones.
# pytest --hypothesis-profile chooses another one; tests/deep.py says what `soak` changes.
for profile, examples in {"fast": 25, "test": 100, "soak": 100}.items():
    settings.register_profile(profile, deadline=None, max_examples=examples)
settings.load_profile("test")


@pytest.fixture(scope="session", autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Serving workers keep their journals in a folder of the run, not in that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
