"""What all tests share: Hypothesis profiles, and the servers of `tidemill.testing`."""

from hypothesis import settings

pytest_plugins = ["tidemill.testing.kafka", "tidemill.testing.s3"]

# A busy machine is no failure: Hypothesis looks for wrong results here, not for slow ones.
# pytest --hypothesis-profile chooses another one; tests/deep.py says what `soak` changes.
for profile in ("fast", "test", "soak"):
    settings.register_profile(profile, deadline=None)
settings.load_profile("test")
