"""Requests to close, as the workers of a loop hear them from the control topic."""

import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from tidemill.kafka import BadRecords, KafkaConfig, ensure_topics
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.published import SHARED_TOPICS
from tidemill.streams.runtime.close_requests import CloseRequests, request_close

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
EVER_S = 60.0


@pytest.mark.kafka
def test_a_worker_with_trusted_keys_hears_no_forged_request(kafka: KafkaConfig) -> None:
    """Whoever may write to the topic could close windows whose feedback is still to come."""
    ensure_topics(kafka, SHARED_TOPICS)
    loop, key = f"closed-{uuid.uuid4().hex[:8]}", SigningKey.generate()
    trusting = CloseRequests(kafka, bad := BadRecords(), TrustedKeys.of([key.public]))
    believing = CloseRequests(kafka)
    try:
        request_close(kafka, loop, NOON + YEAR)
        request_close(kafka, loop, NOON + 2 * YEAR, SigningKey.generate())
        request_close(kafka, loop, NOON, key)
        request_close(kafka, f"{loop}-last", NOON, key)
        for each in (trusting, believing):
            wait_for(each, f"{loop}-last")
        assert trusting.wanted(loop) == NOON
        assert believing.wanted(loop) == NOON + 2 * YEAR
        mine = [each.why for each in bad.all() if each.key == f"close/{loop}"]
        assert mine == [], "a signed request has taken their place"
        request_close(kafka, loop, NOON + YEAR)
        request_close(kafka, f"{loop}-last", NOON + YEAR, key)
        wait_for(trusting, f"{loop}-last", NOON + YEAR)
        (why,) = [each.why for each in bad.all() if each.key == f"close/{loop}"]
        assert "without the signature of a trusted key" in why
        assert trusting.wanted(loop) == NOON
    finally:
        trusting.close()
        believing.close()


def wait_for(requests: CloseRequests, loop: str, until: datetime = NOON) -> None:
    """Return once *requests* has heard of *loop*."""
    pause, waited = threading.Event(), 0.0
    while requests.wanted(loop) != until:
        assert waited < EVER_S, "the request was not heard"
        pause.wait(0.05)
        waited += 0.05
