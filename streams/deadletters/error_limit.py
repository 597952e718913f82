"""The error limit: a worker stops when too large a share of a log is unreadable.

The payloads of one broken producer become dead letters, and the worker continues. But a worker that
cannot read most of a topic (another schema registry, another topic, a broker with a wrong clock)
would turn all of it into dead letters as fast as it can. Records are counted in stretches of
offsets, so batch sizes and restarts do not change the result.
"""

from collections import Counter
from collections.abc import Sequence

from tidemill.errors import ContractError
from tidemill.schemas.loop.definition import MaxBad
from tidemill.streams.deadletters.writer import DeadLetter
from tidemill.streams.units import within_calendar

_HINTS = {
    "unknown-schema": "were these schemas registered, and is SCHEMA_REGISTRY_URL the registry "
    "that their producers use?",
    "wrong-type": "does another kind of event go to this topic?",
    "skew": "look at the clocks of the producers and of the broker",
}
_OTHER = "does what writes to this topic write the loop's events, and nothing else?"


class ErrorLimit:
    """The number of unreadable records of one log in the current stretch of offsets.

    Records that Kafka had before *accepted_until*, in ms since the epoch, are not counted: an
    operator has looked at them.
    """

    def __init__(
        self, limit: MaxBad, *, next: int = 0, bad: int = 0, accepted_until: int = -1
    ) -> None:
        """Continue at offset *next*, with *bad* unreadable records in the stretch before it."""
        self._limit = limit
        self._accepted_until = accepted_until
        self._stretch = max(0, next - 1) // limit.of
        self.bad = bad

    def take(self, last: int, dead_letters: Sequence[DeadLetter]) -> None:
        """Count *dead_letters*, those of the batch that ends with offset *last*, in order.

        Raises:
            ContractError: a stretch has more of them than the loop allows.
        """
        counts = Counter({self._stretch: self.bad})
        counted = [each for each in dead_letters if each.timestamp_ms > self._accepted_until]
        new = Counter(dead_letter.offset // self._limit.of for dead_letter in counted)
        counts.update(new)
        for stretch in new:
            if counts[stretch] > self._limit.share * self._limit.of:
                raise self._over(stretch, counts[stretch], counted)
        self._stretch = last // self._limit.of
        self.bad = counts[self._stretch]

    def _over(self, stretch: int, bad: int, dead_letters: Sequence[DeadLetter]) -> ContractError:
        of_stretch = [
            dead_letter
            for dead_letter in dead_letters
            if dead_letter.offset // self._limit.of == stretch
        ]
        reasons = Counter(dead_letter.reason for dead_letter in of_stretch)
        summary = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        partition = f"{dead_letters[0].topic}/{dead_letters[0].partition}"
        newest_ms = max(dead_letter.timestamp_ms for dead_letter in dead_letters)
        until = within_calendar((newest_ms + 1000) * 1000)
        return ContractError(
            f"{partition}: {bad} of the {self._limit.of} records from offset "
            f"{stretch * self._limit.of} on are bad ({summary}), more than max_bad of the loop "
            f"allows; the first of these: {of_stretch[0].detail}",
            hint=f"{_HINTS.get(reasons.most_common(1)[0][0], _OTHER)} Nothing since the last "
            "commit counts as read, so a worker that is started after the repair reads it again. "
            "To have those that came so far as dead letters instead, start it once with "
            f"--accept-bad {until:%Y-%m-%dT%H:%M:%SZ}; to have all, publish the loop with "
            "max_bad: {share: 1}",
        )
