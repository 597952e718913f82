"""Convergence: how many of the workers of a loop have taken up what is on the model topic."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from tidemill.schemas.models.manifest import Ack


@dataclass(frozen=True, slots=True)
class Convergence:
    """What the workers of a loop have acknowledged of one model in one slot.

    Attributes:
        serving: workers that have taken it up.
        refused: workers that have refused it.
        workers: workers that ever acknowledged a model of the loop.
    """

    serving: int
    refused: int
    workers: int

    @property
    def is_complete(self) -> bool:
        """Whether every worker has taken it up."""
        return self.serving == self.workers

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return asdict(self)


def convergence(acks: Iterable[Ack], loop: str, slot: str, version: str) -> Convergence:
    """Return how many workers of *loop* have acknowledged *version* in *slot*.

    A worker counts by its newest acknowledgement of the slot, which is what the topic keeps.
    """
    of_loop = [ack for ack in acks if ack.loop == loop]
    own = [ack for ack in of_loop if (ack.slot, ack.version) == (slot, version)]
    return Convergence(
        serving=len({ack.worker for ack in own if ack.status == "serving"}),
        refused=len({ack.worker for ack in own if ack.status == "refused"}),
        workers=len({ack.worker for ack in of_loop}),
    )
