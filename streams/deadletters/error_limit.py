"""Too many bad records in a row of a log: a sign that the log, or its reader, is the wrong one.

One broken producer's payloads go to the dead letters and nobody waits for them. But a worker that
cannot read most of a topic (another schema registry, another topic, a broker with a wrong clock)
would empty it into the dead letters as fast as it can. A log is judged in stretches of offsets,
so batch sizes and restarts change nothing. It knows no Kafka and no lake.
"""

from collections import Counter
from collections.abc import Sequence

from tidemill.errors import ContractError
from tidemill.schemas.loop.definition import MaxBad
from tidemill.streams.deadletters.writer import DeadLetter

_HINTS = {
    "unknown-schema": "were these schemas registered, and is SCHEMA_REGISTRY_URL the registry "
    "that their producers use?",
    "wrong-type": "does another kind of event go to this topic?",
    "skew": "look at the clocks of the producers and of the broker",
}
_OTHER = "does what writes to this topic write the loop's events, and nothing else?"


class ErrorLimit:
    """How many records of one log are bad in the stretch of offsets that is being read."""

    def __init__(self, limit: MaxBad, *, next: int = 0, bad: int = 0) -> None:
        """Go on at offset *next*, with so many *bad* ones in the stretch of the offset before."""
        self._limit = limit
        self._stretch = max(0, next - 1) // limit.of
        self.bad = bad

    def take(self, last: int, dead_letters: Sequence[DeadLetter]) -> None:
        """Count *dead_letters*, all of the batch that ends with offset *last*, in order.

        Raises:
            ContractError: a stretch has more of them than the loop allows.
        """
        counts = Counter({self._stretch: self.bad})
        new = Counter(letter.offset // self._limit.of for letter in dead_letters)
        counts.update(new)
        for stretch in new:
            if counts[stretch] > self._limit.share * self._limit.of:
                raise self._over(stretch, counts[stretch], dead_letters)
        self._stretch = last // self._limit.of
        self.bad = counts[self._stretch]

    def _over(self, stretch: int, bad: int, dead_letters: Sequence[DeadLetter]) -> ContractError:
        here = [letter for letter in dead_letters if letter.offset // self._limit.of == stretch]
        reasons = Counter(letter.reason for letter in here)
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        place = f"{dead_letters[0].topic}/{dead_letters[0].partition}"
        return ContractError(
            f"{place}: {bad} of the {self._limit.of} records from offset "
            f"{stretch * self._limit.of} on are bad ({told}), which is over max_bad of the loop; "
            f"the first of these: {here[0].detail}",
            hint=f"{_HINTS.get(reasons.most_common(1)[0][0], _OTHER)} Nothing since the last "
            "commit counts as read, so a worker that is started after the repair reads it again. "
            "To have them all as dead letters instead, publish the loop with max_bad: {share: 1}",
        )
