"""Who may ask for what changes a result: signatures of records, and what is refused without one."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tidemill.cli.app import main
from tidemill.errors import ConfigError, ContractError
from tidemill.kafka import BadRecords, CompactedLog, Record
from tidemill.schemas import topics
from tidemill.schemas.control import CloseRequest, NewExamples, TrainerBeat, parse_control
from tidemill.schemas.models.signing import (
    SIGNING_KEY,
    TRUSTED_KEYS,
    SigningKey,
    TrustedKeys,
    command_signer,
    init_keys,
)
from tidemill.schemas.record_signature import (
    HEADER,
    attested,
    check_attested,
    is_signed,
    signed_headers,
)

KEY = SigningKey.generate()
TRUSTED = TrustedKeys.of([KEY.public])
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record(signer: SigningKey | None, key: bytes, value: bytes, topic: str = "t") -> Record:
    """Return a record that *signer* signed."""
    return Record(
        topic=topic,
        partition=0,
        offset=0,
        key=key,
        value=value,
        timestamp_ms=0,
        headers=signed_headers(signer, topic, key, value),
    )


def close(signer: SigningKey | None, until: datetime) -> Record:
    """Return a request to close, signed by *signer*."""
    return record(signer, *CloseRequest("shop", until).record(), topic=topics.CONTROL)


def test_a_signature_is_for_one_topic_key_and_value() -> None:
    """A request for one loop must not be good for another one."""
    signed = record(KEY, b"k", b"v")
    assert is_signed(signed, TRUSTED)
    assert not is_signed(signed, None)
    assert not is_signed(signed, TrustedKeys.of([SigningKey.generate().public]))
    for other in (
        replace(signed, topic="u"),
        replace(signed, key=b"kv", value=b""),
        replace(signed, key=None),
        replace(signed, value=None),
        replace(signed, headers=()),
        replace(signed, headers=((HEADER, b""),)),
        replace(signed, headers=((HEADER, b"\xff" * 80),)),
        replace(signed, headers=((HEADER, KEY.id.encode() + KEY.sign(b"v")),)),
        record(SigningKey.generate(), b"k", b"v"),
    ):
        assert not is_signed(other, TRUSTED)


@pytest.mark.parametrize("signer", [None, SigningKey.generate()], ids=["nobody", "stranger"])
def test_a_forged_request_to_close_changes_nothing_where_keys_are_trusted(
    signer: SigningKey | None,
) -> None:
    """It would turn decisions whose feedback is still to come into negatives, for good."""
    forged, right = close(signer, NOON + timedelta(days=365)), close(KEY, NOON)
    log = CompactedLog(lambda each: parse_control(each, TRUSTED))
    assert log.take([right, replace(forged, offset=1)]) == [CloseRequest("shop", NOON)]
    assert ["without the signature of a trusted key" in bad.why for bad in log.bad] == [True]
    bad = BadRecords()
    bad.report(topics.CONTROL, log.bad)
    assert [metric.samples[0].value for metric in bad.collect()] == [1]


def test_without_trusted_keys_every_request_is_heard() -> None:
    """As before there were signatures; an older tidemill writes none."""
    log = CompactedLog(parse_control)
    assert log.take([close(None, NOON), close(KEY, NOON)]) == 2 * [CloseRequest("shop", NOON)]


def test_hints_need_no_signature() -> None:
    """A streams worker, which writes them, has no key; whoever forges one wakes a trainer."""
    beat = TrainerBeat(loop="shop", at=NOON, examples=1)
    for message in (NewExamples("shop", 1), beat):
        key, value = message.record()
        said = attested(lambda each: parse_control(each, TRUSTED), TRUSTED)
        found = said(record(None, key, value, topics.CONTROL))
        assert (found.value, found.is_verified) == (message, False)
        assert said(record(KEY, key, value, topics.CONTROL)).is_verified


def test_what_is_signed_is_not_replaced_by_what_is_not() -> None:
    """Else a forger would only have to write last."""
    read: Callable[[Record], bytes | None] = lambda each: each.value  # noqa: E731
    log = CompactedLog(attested(read, TRUSTED), check_attested)
    written = [record(None, b"k", b"1"), record(KEY, b"k", b"2"), record(None, b"k", b"3")]
    log.take(replace(each, offset=n) for n, each in enumerate(written))
    assert [(each.value, each.is_verified) for each in log.values] == [(b"2", True)]
    assert [bad.offset for bad in log.bad] == [2]
    with pytest.raises(ContractError, match="unsigned"):
        check_attested(log.values[0], replace(log.values[0], is_verified=False))


def test_a_command_whose_request_would_be_refused_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its request would be a line in the log of a worker that nobody reads."""
    signing, trusted = init_keys(tmp_path / "a")
    other, _ = init_keys(tmp_path / "b")
    assert command_signer({}) is None
    env = {TRUSTED_KEYS: str(trusted)}
    for wrong in (env, env | {SIGNING_KEY: str(other)}):
        with pytest.raises(ConfigError, match="would refuse"):
            command_signer(wrong)
    found = command_signer(env | {SIGNING_KEY: str(signing)})
    assert found is not None
    assert found.id in TrustedKeys.load(trusted).keys
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv(TRUSTED_KEYS, str(trusted))
    monkeypatch.delenv(SIGNING_KEY, raising=False)
    assert main(["close", "shop", "--until", "2026-01-01T00:00:00Z"]) == 2
    assert SIGNING_KEY in capsys.readouterr().err
