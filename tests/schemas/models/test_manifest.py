"""Records of the model topic, as far as they can be checked without the keys that are trusted."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.serving.model import bad_models
from tests.serving.models import manifest, records, text

from tidemill.errors import ModelError
from tidemill.schemas.models import manifest as manifest_module
from tidemill.schemas.models.manifest import (
    CHUNK_BYTES,
    Ack,
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


ACK = Ack(
    worker="w-1",
    loop="banner",
    slot="live",
    version="lightgbm-1",
    digest="d",
    status="serving",
    at=datetime(2026, 1, 1, tzinfo=UTC),
)
EARLIER = {"worker", "loop", "slot", "version", "digest", "status", "reason", "at"}
"""The fields of an acknowledgement of the first release, which refuses any other."""


def test_an_acknowledgement_without_a_new_field_is_what_it_was() -> None:
    """Earlier monitors read it, and it is under the key that they know."""
    assert json.loads(ACK.to_json()).keys() == EARLIER
    assert ACK.key == b"w-1/banner"
    assert Ack.from_json(ACK.to_json()) == ACK


def test_each_slot_is_acknowledged_under_a_key_of_its_own() -> None:
    """Compaction has the last word of each; a canary must not hide the live model."""
    told = replace(ACK, slot="canary", load_ms=12.5, sequence=7)
    assert told.key == b"w-1/banner/canary"
    assert Ack.from_json(told.to_json()) == told


def test_an_acknowledgement_of_a_later_release_is_read_too() -> None:
    """The next new field must not stop monitors."""
    later = json.loads(ACK.to_json()) | {"colour": ["red"]}
    assert Ack.from_json(json.dumps(later).encode()) == ACK


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": "7"},
        {"sequence": 7.5},
        {"load_ms": True},
        {"worker": 7},
        {"at": 7},
        {"at": "2026-01-01T00:00:00"},
        {"status": "content"},
    ],
)
def test_what_is_no_acknowledgement_is_refused(changes: dict[str, object]) -> None:
    """Anybody who may write to the topic can write anything."""
    value = json.dumps(json.loads(ACK.to_json()) | changes).encode()
    with pytest.raises(ModelError, match="not an acknowledgement"):
        Ack.from_json(value)
    for bad in (b"[]", b"7", b"{}", b"{"):
        with pytest.raises(ModelError, match="not an acknowledgement"):
            Ack.from_json(bad)
