"""Convergence: a model that is on the topic is not yet one that decides everywhere."""

from datetime import UTC, datetime
from typing import Literal

from tidemill.monitor.convergence import Convergence, convergence
from tidemill.schemas.models.manifest import CANARY, LIVE, Ack


def ack(
    worker: str,
    version: str,
    *,
    loop: str = "offer",
    slot: str = LIVE,
    status: Literal["serving", "refused"] = "serving",
) -> Ack:
    """Return what a worker says of a model."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Ack(
        worker=worker, loop=loop, slot=slot, version=version, digest="", status=status, at=at
    )


def test_workers_of_the_loop_are_counted_by_what_they_have_acknowledged() -> None:
    """One has the new model, one refused it, one is behind, and one is of another loop."""
    acks = [
        ack("a", "m-2"),
        ack("b", "m-2", status="refused"),
        ack("c", "m-1"),
        ack("d", "m-2", loop="other"),
        ack("a", "m-3", slot=CANARY),
    ]
    found = convergence(acks, "offer", LIVE, "m-2")
    assert found == Convergence(serving=1, refused=1, workers=3)
    assert not found.is_complete
    assert convergence(acks, "offer", CANARY, "m-3").serving == 1
    assert convergence(acks[:1], "offer", LIVE, "m-2").is_complete
