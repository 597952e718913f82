"""Records of the model topic, as far as they can be checked without the keys that are trusted."""

import pytest
from tests.serving.model import bad_models
from tests.serving.models import manifest, records, text

from tidemill.schemas.models.manifest import CHUNK_BYTES, RefusedError, check_record, chunk_key
from tidemill.schemas.models.signing import SigningKey

KEY = SigningKey.generate()
PAYLOAD = text().encode()


def test_what_a_trainer_publishes_is_right() -> None:
    """The monitor reads it without keys, and must not cry wolf."""
    large = PAYLOAD + b" " * CHUNK_BYTES
    for payload in (PAYLOAD, large):
        for key, value in records(KEY, payload, manifest(payload)):
            assert value is not None
            check_record(key, value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"banner/live", b"{", "malformed"),
        (b"banner", b"{", "malformed"),
        (None, b"", "malformed"),
        (chunk_key("banner", "0" * 64, 0), b"x" * (CHUNK_BYTES + 1), "oversize"),
        (*bad_models.misplaced(KEY)[0], "misplaced"),
        (*bad_models.truncated(KEY)[0], "malformed"),
        (*bad_models.swapped_payload(KEY)[0], "digest-mismatch"),
    ],
)
def test_what_nobody_could_serve_is_refused(key: bytes | None, value: bytes, reason: str) -> None:
    """An operator who looks at the monitor alone saw nothing of such records."""
    with pytest.raises(RefusedError) as told:
        check_record(key, value)
    assert told.value.reason == reason
