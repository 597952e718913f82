"""What all tests share: Hypothesis profiles, and the servers of `tidemill.testing`."""

from hypothesis import settings

pytest_plugins = ["tidemill.testing.kafka", "tidemill.testing.s3"]

# A busy machine is no failure: Hypothesis looks for wrong results here, not for slow ones.
# pytest --hypothesis-profile chooses another one; tests/deep.py says what `soak` changes.
for profile, examples in {"fast": 25, "test": 100, "soak": 100}.items():
    settings.register_profile(profile, deadline=None, max_examples=examples)
settings.load_profile("test")
