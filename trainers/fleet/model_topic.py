"""The model topic as all loops of a process share it: read once, then only what is new.

Each loop asks for the whole topic when it is taken up. With a thousand models, reading it each
time would be a thousand times three hundred megabytes. Payloads in chunks are not remembered.
"""

import threading
from collections.abc import Iterable, Mapping

from tidemill.kafka import KafkaConfig, LogFollower, Record, Topic, ensure_topics, write_all
from tidemill.schemas import topics
from tidemill.schemas.models.manifest import parse_chunk_key
from tidemill.trainers.publisher import KeyedRecord


def _without_chunk(record: Record) -> tuple[bytes, bytes]:
    key = record.key or b""
    return key, b"" if parse_chunk_key(key) else record.value or b""


class SharedModelTopic:
    """The topic ``tidemill.models`` for the publishers of many loops. Safe to share among threads.

    It is a `ModelTopic`, but `read` returns empty values for chunks: a publisher asks only which
    there are.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._follower = LogFollower(config, topics.MODELS, _without_chunk)
        self._is_made = False

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Write *items* and wait for all acknowledgements; see `ModelTopic`."""
        write_all(self._config, topics.MODELS, items)

    def read(self) -> Mapping[bytes, bytes]:
        """Return what the topic has at its current end; see `ModelTopic`."""
        with self._lock:
            if not self._is_made:
                ensure_topics(self._config, [Topic(name=topics.MODELS, compacted=True)])
                self._is_made = True
            return dict(self._follower.read().values)

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._follower.close()
