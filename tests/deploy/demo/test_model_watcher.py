"""Models on their way: the time from publication to the last worker, by the broker's clock."""

import itertools
from datetime import UTC, datetime
from typing import Literal

import pytest
from tests.serving.models import manifest

from tidemill.deploy.demo.model_watcher import Journeys
from tidemill.kafka import Record
from tidemill.schemas import topics
from tidemill.schemas.models.manifest import LIVE, Ack, sign
from tidemill.schemas.models.signing import SigningKey, TrustedKeys

KEY = SigningKey.generate()


def published(number: int, ms: int, *, key: SigningKey = KEY) -> Record:
    """Return the record that announces a version at *ms*."""
    published_model = manifest(b"model", number)
    value = sign(published_model, key, payload=b"model")
    return Record(
        topic=topics.MODELS,
        partition=0,
        offset=0,
        key=published_model.key,
        value=value,
        timestamp_ms=ms,
    )


def acknowledged(
    worker: str,
    number: int,
    ms: int,
    *,
    status: Literal["serving", "refused"] = "serving",
    loop: str = "banner",
    slot: str = LIVE,
) -> Record:
    """Return the record by which *worker* answers a version at *ms*."""
    ack = Ack(
        worker=worker,
        loop=loop,
        slot=slot,
        version=f"lightgbm-{number}",
        digest="",
        status=status,
        reason="" if status == "serving" else "bad-signature",
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return Record(
        topic=topics.ACKS,
        partition=0,
        offset=0,
        key=ack.key,
        value=ack.to_json(),
        timestamp_ms=ms,
    )


RECORDS = [published(1, 1_000), acknowledged("a", 1, 1_200), acknowledged("b", 1, 1_700)]


@pytest.mark.parametrize("order", list(itertools.permutations(RECORDS)))
def test_a_swap_takes_until_the_last_worker_serves(order: tuple[Record, ...]) -> None:
    """Two topics are read, and nobody knows which record comes first."""
    journeys = Journeys("banner", TrustedKeys.of([KEY.public]))
    for record in order:
        journeys.take(record)
    assert journeys.by_version["lightgbm-1"].swap_s(2) == 0.7
    assert journeys.by_version["lightgbm-1"].swap_s(3) is None


def test_a_model_serves_once_it_is_live() -> None:
    """As a canary it was acknowledged before, and nobody had promoted it."""
    journeys = Journeys("banner", TrustedKeys.of([KEY.public]))
    for record in (acknowledged("a", 1, 900, slot="canary"), published(1, 1_000)):
        journeys.take(record)
    assert journeys.by_version["lightgbm-1"].swap_s(1) is None


def test_a_worker_that_says_so_again_was_not_slower() -> None:
    """A worker that restarts acknowledges what has served for long."""
    journeys = Journeys("banner", TrustedKeys.of([KEY.public]))
    for record in (*RECORDS, acknowledged("a", 1, 90_000)):
        journeys.take(record)
    assert journeys.by_version["lightgbm-1"].swap_s(2) == 0.7


def test_refusals_forgeries_and_other_loops_are_no_swaps() -> None:
    """The figure would be better than the truth."""
    journeys = Journeys("banner", TrustedKeys.of([KEY.public]))
    forged = published(2, 2_000, key=SigningKey.generate())
    refused = acknowledged("b", 1, 1_300, status="refused")
    other = acknowledged("c", 1, 1_400, loop="other")
    for record in (RECORDS[0], RECORDS[1], refused, other, forged):
        journeys.take(record)
    assert list(journeys.by_version) == ["lightgbm-1"]
    assert journeys.by_version["lightgbm-1"].swap_s(2) is None
    assert journeys.by_version["lightgbm-1"].refused == {"b": "bad-signature"}


def test_topics_that_are_read_again_change_nothing() -> None:
    """After an error of the broker the topics are read from their beginnings."""
    journeys = Journeys("banner", TrustedKeys.of([KEY.public]))
    second, again = published(2, 2_000), published(1, 3_000)
    log = [*RECORDS, second, again]
    for record in [*log, RECORDS[0], second]:
        journeys.take(record)
    assert list(journeys.by_version) == ["lightgbm-2", "lightgbm-1"]
    assert journeys.by_version["lightgbm-1"].published_ms == 3_000
