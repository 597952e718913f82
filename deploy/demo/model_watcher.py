"""When each model version was published, and when each worker served it.

Both times are the broker's, so clocks of different machines do not matter. Compaction keeps only
the newest record of a key, so the topics are read while they are written.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.errors import ModelError
from tidemill.kafka import KafkaConfig, Record, TailThread
from tidemill.schemas import topics
from tidemill.schemas.models.manifest import LIVE, Ack, manifest_key, verify
from tidemill.schemas.models.signing import TrustedKeys


@dataclass(slots=True)
class Journey:
    """One model version: the broker's times, in ms, of its publication and acknowledgements."""

    published_ms: int
    serving_ms: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def swap_s(self, workers: int) -> float | None:
        """Return the seconds until the last of *workers* served it; None if not all did."""
        if len(self.serving_ms) < workers:
            return None
        return max(0, max(self.serving_ms.values()) - self.published_ms) / 1000


class Journeys:
    """The journeys of one loop's models, from the records of the two topics in any order."""

    def __init__(self, loop: str, trusted: TrustedKeys) -> None:
        self._loop, self._trusted = loop, trusted
        self._early: list[Record] = []  # acknowledgements read before the model they answer
        self.by_version: dict[str, Journey] = {}

    def take(self, record: Record) -> None:
        """Take in a record of the model topic or of the acknowledgements, if it is of this loop."""
        if record.topic == topics.ACKS:
            self._early.append(record)
        elif record.key == manifest_key(self._loop) and record.value is not None:
            with contextlib.suppress(ModelError):  # the workers report forgeries
                manifest, _ = verify(record.value, self._trusted)
                self._publish(manifest.version, record.timestamp_ms)
        self._early = [early for early in self._early if not self._acknowledge(early)]

    def _publish(self, version: str, published_ms: int) -> None:
        """Begin the journey of *version*, again if it was published again."""
        known = self.by_version.get(version)
        if known is None or published_ms > known.published_ms:  # else the topic is read again
            self.by_version.pop(version, None)
            self.by_version[version] = Journey(published_ms)

    def _acknowledge(self, record: Record) -> bool:
        """Take in an acknowledgement; return False if its model is still to be read."""
        try:
            ack = Ack.from_json(record.value or b"")
        except (ModelError, ValueError):
            return True
        if ack.loop != self._loop or ack.slot != LIVE:
            return True
        journey = self.by_version.get(ack.version)
        if journey is None:
            return False
        if ack.status == "serving":
            journey.serving_ms.setdefault(ack.worker, record.timestamp_ms)
        else:
            journey.refused[ack.worker] = ack.reason
        return True


class ModelWatcher:
    """A thread that reads the model topic and the acknowledgements of one loop."""

    def __init__(self, config: KafkaConfig, loop: str, trusted: TrustedKeys) -> None:
        """Start to read.

        Raises:
            BrokerError: the topics are not there, or the broker does not answer.
        """
        self._journeys = Journeys(loop, trusted)
        self._thread = TailThread(
            config,
            {topics.MODELS: self._take, topics.ACKS: self._take},
            name="model-watcher",
            consequence="models are not watched",
        )
        self._thread.open()
        self._thread.start()

    @property
    def journeys(self) -> Mapping[str, Journey]:
        """The journeys so far by version, in the order of their publication.

        Raises:
            RuntimeError: the thread has ended by an error, so nothing would ever be added.
        """
        self._thread.check()
        return self._journeys.by_version

    @property
    def live(self) -> str | None:
        """The version that was published last; raises as `journeys` does."""
        self._thread.check()
        return next(reversed(self._journeys.by_version), None)

    def close(self) -> None:
        """Stop reading."""
        self._thread.close()

    def _take(self, records: list[Record]) -> None:
        for record in records:
            self._journeys.take(record)
