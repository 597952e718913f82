"""Records of the model topic, as far as they can be checked without the keys that are trusted."""

from dataclasses import asdict
from typing import Any

import pytest
from tests.serving.model import bad_models
from tests.serving.models import manifest, records, text

from tidemill.schemas.models import manifest as manifest_module
from tidemill.schemas.models.manifest import (
    CHUNK_BYTES,
    RefusedError,
    check_record,
    chunk_key,
    sign,
    verify,
)
from tidemill.schemas.models.signing import SigningKey, TrustedKeys

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


def test_a_manifest_carries_the_digest_of_its_label() -> None:
    """Workers of this release compare it with that of the loop they serve."""
    said = manifest(PAYLOAD, label_digest="0" * 64)
    found, payload = verify(sign(said, KEY, payload=PAYLOAD), TrustedKeys.of([KEY.public]))
    assert (found, payload) == (said, PAYLOAD)


@pytest.mark.parametrize(
    ("added", "count"),
    [({}, 0), ({"label_digest": "0" * 64}, 1), ({"label_digest": "0" * 64, "share": 0.05}, 2)],
)
def test_a_manifest_is_written_as_the_earliest_release_that_can_say_it(
    added: dict[str, Any], count: int
) -> None:
    """A worker of an earlier release goes on to read what it can read."""
    said = manifest(PAYLOAD, **added)
    signed = sign(said, KEY, payload=PAYLOAD)
    assert verify(signed, TrustedKeys.of([KEY.public])) == (said, PAYLOAD)
    body = manifest_module._encode(manifest_module._announcement(count), asdict(said))
    assert body in signed


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_none_and_all(share: float) -> None:
    """A worker would compare numbers with it."""
    with pytest.raises(RefusedError, match="share"):
        manifest(PAYLOAD, share=share)
