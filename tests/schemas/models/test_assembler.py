"""The assembler: whatever is on the model topic, only whole models of trusted keys come out."""

import os
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.schemas.loop.definition import FieldType
from tidemill.schemas.models.assembler import BUFFER_BYTES, Delivery, ModelAssembler, Refusal
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.manifest import (
    INLINE_BYTES,
    ModelManifest,
    RefusedError,
    chunk_count,
    chunk_key,
    chunked,
    payload_digest,
    sign,
    verify,
)
from tidemill.schemas.models.signing import SigningKey, TrustedKeys

Records = list[tuple[bytes, bytes | None]]
SIGNATURE = FeatureSignature((SignatureField("hour", FieldType.INT),))
TEMPLATE = ModelManifest(
    loop="flight-delay",
    loop_version=1,
    version="lightgbm-1",
    number=1,
    sequence=1,
    learner="lightgbm",
    label_type="bool",
    digest=payload_digest(b"tree"),
    payload_bytes=4,
    chunks=0,
    features=SIGNATURE.to_json(),
    features_digest=SIGNATURE.digest,
    policy_version=1,
    snapshot=12,
    trained_on_rows=10_000,
    base_rate=0.24,
    metrics={"log_loss": 0.5},
    created_at=datetime(2013, 3, 1, 12, tzinfo=UTC),
)


KEY = SigningKey.generate()
TRUSTED = TrustedKeys.of([KEY.public])
BIG = os.urandom(2_000_000)


def announce(payload: bytes, number: int, *, sequence: int | None = None) -> ModelManifest:
    """A manifest of *payload*, all else as in `TEMPLATE`."""
    return replace(
        TEMPLATE,
        version=f"lightgbm-{number}",
        number=number,
        sequence=number if sequence is None else sequence,
        digest=payload_digest(payload),
        payload_bytes=len(payload),
        chunks=0 if len(payload) <= INLINE_BYTES else chunk_count(len(payload)),
    )


def records(manifest: ModelManifest, payload: bytes, key: SigningKey = KEY) -> Records:
    """What a publisher writes for it, in order."""
    if manifest.chunks == 0:
        return [(manifest.key, sign(manifest, key, payload=payload))]
    pieces = enumerate(chunked(payload))
    loop, digest = manifest.loop, manifest.digest
    chunks: Records = [(chunk_key(loop, digest, index), piece) for index, piece in pieces]
    return [*chunks, (manifest.key, sign(manifest, key))]


def feed(assembler: ModelAssembler, items: Records) -> list[Delivery | Refusal]:
    """Everything that *items* decide."""
    return [out for key, value in items if (out := assembler.feed(key, value)) is not None]


def only_refusal(outs: list[Delivery | Refusal]) -> Refusal:
    """The one refusal that is expected."""
    assert len(outs) == 1
    assert isinstance(outs[0], Refusal)
    return outs[0]


@pytest.mark.parametrize("payload", [b"tree", BIG], ids=["inline", "chunked"])
def test_a_signed_model_arrives_whole(payload: bytes) -> None:
    """The way every model takes."""
    manifest = announce(payload, 1)
    assembler = ModelAssembler(TRUSTED)
    assert feed(assembler, records(manifest, payload)) == [Delivery.of(manifest, payload)]
    assert assembler.pending() == []


@given(st.data())
def test_a_tampered_byte_never_serves(data: st.DataObject) -> None:
    """One bit anywhere in the record is enough to refuse it, and nothing else happens."""
    [(key, value)] = records(TEMPLATE, b"tree")
    assert value is not None
    place = data.draw(st.integers(0, len(value) - 1))
    changed = bytearray(value)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    out = ModelAssembler(TRUSTED).feed(key, bytes(changed))
    assert isinstance(out, Refusal)
    assert out.reason in ("malformed", "untrusted-key", "bad-signature", "digest-mismatch")


@given(st.binary(max_size=300) | st.just(os.urandom(2_000_000)))
def test_garbage_on_the_topic_is_refused(value: bytes) -> None:
    """Anyone with write access to the topic can put anything there."""
    out = ModelAssembler(TRUSTED).feed(b"flight-delay/live", value)
    assert isinstance(out, Refusal)
    assert (out.loop, out.slot) == ("flight-delay", "live")


@given(st.binary(max_size=40), st.none() | st.binary(max_size=40))
def test_foreign_keys_are_passed_over(key: bytes, value: bytes | None) -> None:
    """A record that names no loop and slot is nobody's business, and no crash."""
    ModelAssembler(TRUSTED).feed(key, value)
    ModelAssembler(TRUSTED).feed(b"offer/payload/" + key, value)
    assert ModelAssembler(TRUSTED).feed(None, value) is None


def test_a_key_that_is_not_trusted_never_serves() -> None:
    """Write access to the topic is not the right to publish."""
    out = only_refusal(
        feed(ModelAssembler(TRUSTED), records(TEMPLATE, b"tree", SigningKey.generate()))
    )
    assert out.reason == "untrusted-key"


def test_a_signature_under_the_name_of_a_trusted_key_is_checked() -> None:
    """The short name of a key is public; only the signature counts."""
    forger = SigningKey.generate()
    value = sign(TEMPLATE, forger, payload=b"tree")
    forged = value.replace(forger.id.encode(), KEY.id.encode())
    out = only_refusal(feed(ModelAssembler(TRUSTED), [(TEMPLATE.key, forged)]))
    assert out.reason == "bad-signature"


def test_an_older_announcement_does_not_come_back() -> None:
    """A record that was good once is still good to replay; its number tells."""
    old, new = announce(b"old", 1), announce(b"new", 2)
    assembler = ModelAssembler(TRUSTED)
    feed(assembler, records(old, b"old") + records(new, b"new"))
    out = only_refusal(feed(assembler, records(old, b"old")))
    assert (out.reason, out.version) == ("replayed", "lightgbm-1")


def test_a_lower_number_needs_the_word_rollback() -> None:
    """Going back is an act of a person, signed, not an accident of two trainers."""
    assembler = ModelAssembler(TRUSTED)
    feed(assembler, records(announce(b"new", 7), b"new"))
    silent = announce(b"old", 3, sequence=8)
    assert only_refusal(feed(assembler, records(silent, b"old"))).reason == "replayed"
    meant = replace(silent, rollback=True)
    assert feed(assembler, records(meant, b"old")) == [Delivery.of(meant, b"old")]
    assert only_refusal(feed(assembler, records(announce(b"new", 7), b"new"))).reason == "replayed"


def test_the_same_record_once_more_changes_nothing() -> None:
    """After a reconnect the topic may be read from its beginning."""
    items = records(announce(BIG, 1), BIG)
    assembler = ModelAssembler(TRUSTED)
    assert len(feed(assembler, items)) == 1
    assert feed(assembler, items) == []
    assert assembler.pending() == []


def test_a_topic_read_again_from_its_beginning_refuses_nothing() -> None:
    """Superseded records may still be there: they are history, not replays."""
    items = [
        item
        for number, payload in enumerate((BIG, b"two", b"three"), 1)
        for item in records(announce(payload, number), payload)
    ]
    assembler = ModelAssembler(TRUSTED)
    assert len(feed(assembler, items)) == 3
    assembler.rewind()
    assert feed(assembler, items) == []
    assert assembler.pending() == []
    assert only_refusal(feed(assembler, items[-2:-1])).reason == "replayed"  # now it is one again
    assembler.rewind()
    newer = announce(b"four", 4)
    assert feed(assembler, items + records(newer, b"four")) == [Delivery.of(newer, b"four")]


def test_a_missing_chunk_is_pending_until_it_comes() -> None:
    """A compacted topic can have lost one; the worker says which, and serves on."""
    manifest = announce(BIG, 1)
    items = records(manifest, BIG)
    assembler = ModelAssembler(TRUSTED)
    assert feed(assembler, items[:1] + items[2:]) == []
    [refusal] = assembler.pending()
    assert (refusal.reason, refusal.detail) == (
        "missing-chunk",
        "chunks [1] are not on the topic",
    )
    assert feed(assembler, items[1:2]) == [Delivery.of(manifest, BIG)]


def test_a_tombstoned_chunk_is_gone() -> None:
    """The publisher removes the chunks of old models so."""
    items = records(announce(BIG, 1), BIG)
    assembler = ModelAssembler(TRUSTED)
    assert feed(assembler, [*items[:-1], (items[0][0], None), items[-1]]) == []
    assert assembler.pending()[0].reason == "missing-chunk"


def test_a_changed_chunk_is_a_digest_mismatch() -> None:
    """Chunks are not signed; the announced digest covers them."""
    items = records(announce(BIG, 1), BIG)
    changed = [items[0], (items[1][0], bytes(900_000)), *items[2:]]
    assembler = ModelAssembler(TRUSTED)
    out = only_refusal(feed(assembler, changed))
    assert (out.reason, out.version) == ("digest-mismatch", "lightgbm-1")
    assert feed(assembler, items) == [
        Delivery.of(announce(BIG, 1), BIG)
    ]  # published again, it serves


def test_a_changed_inline_payload_is_a_digest_mismatch() -> None:
    """The inline payload is outside of the signed bytes, under the same digest."""
    value = sign(TEMPLATE, KEY, payload=b"leaf")
    out = only_refusal(feed(ModelAssembler(TRUSTED), [(TEMPLATE.key, value)]))
    assert out.reason == "digest-mismatch"


def test_an_announcement_of_another_loop_is_misplaced() -> None:
    """Else the model of one loop could be copied under the key of another."""
    [(_, value)] = records(TEMPLATE, b"tree")
    assert (
        only_refusal(feed(ModelAssembler(TRUSTED), [(b"other/live", value)])).reason == "misplaced"
    )


@pytest.mark.parametrize("size", [0, -1, 2**40])
def test_a_payload_size_outside_the_protocol_cannot_even_be_said(size: int) -> None:
    """A claim of a terabyte must not make a worker wait or allocate for it."""
    with pytest.raises(RefusedError) as error:
        replace(TEMPLATE, payload_bytes=size)
    assert error.value.reason == "oversize"


def test_a_chunk_count_that_does_not_fit_its_size_is_malformed() -> None:
    """Two numbers that contradict each other are no claim."""
    with pytest.raises(RefusedError) as error:
        replace(TEMPLATE, chunks=3)
    assert error.value.reason == "malformed"


def test_chunks_nobody_announced_are_held_under_a_limit() -> None:
    """A flood of chunks evicts the oldest, not the worker."""
    assembler = ModelAssembler(TRUSTED)
    flood = bytes(900_000)
    for index in range(2 * BUFFER_BYTES // len(flood)):
        digest = payload_digest(index.to_bytes(4, "big"))
        assembler.feed(chunk_key("flight-delay", digest, 0), flood)
    assert assembler.buffered_bytes <= BUFFER_BYTES
    assert len(feed(assembler, records(announce(BIG, 1), BIG))) == 1


def test_an_oversize_chunk_is_not_held() -> None:
    """The protocol cuts at 900 kB; more is not of it."""
    assembler = ModelAssembler(TRUSTED)
    assembler.feed(chunk_key("flight-delay", TEMPLATE.digest, 0), bytes(900_001))
    assembler.feed(chunk_key("flight-delay", TEMPLATE.digest, 999_999), b"x")
    assert assembler.buffered_bytes == 0


def test_other_loops_are_passed_over() -> None:
    """A worker for one loop does not hold the models of a hundred."""
    assembler = ModelAssembler(TRUSTED, wants=lambda loop: loop == "offer")
    assert feed(assembler, records(announce(BIG, 1), BIG)) == []
    assert assembler.buffered_bytes == 0


def test_verification_comes_before_reading() -> None:
    """What no trusted key signed is never parsed."""
    value = sign(replace(TEMPLATE, loop="other"), KEY, payload=b"tree")
    manifest, payload = verify(value, TRUSTED)
    assert (manifest.loop, payload) == ("other", b"tree")
    with pytest.raises(RefusedError):
        verify(value, TrustedKeys.of([SigningKey.generate().public]))


def test_other_slots_are_passed_over() -> None:
    """A learner's own state is on the same topic; it is not what answers requests."""
    state = replace(TEMPLATE, slot="online")
    assert feed(ModelAssembler(TRUSTED), records(state, b"tree")) == []
    assert (
        len(feed(ModelAssembler(TRUSTED, slots=["live", "online"]), records(state, b"tree"))) == 1
    )
