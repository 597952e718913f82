"""Samples of old data: where one lies, what is in it, and how its topics come back to a broker."""

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its list of names
    AdminClient,
    ConfigResource,
)
from confluent_kafka.cimpl import NewTopic
from tests.streams.rig import Rig, until

from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig
from tidemill.schemas.models.signing import SigningKey, TrustedKeys

DATA = Path(__file__).parent
SUMS = "SHA256SUMS"
TEST_KEY = "test-only-signing.key"
VERSIONS = sorted(path.parent.name for path in DATA.glob(f"*/{SUMS}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a topic."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    def to_json(self) -> str:
        """Return the record as one line of a topic's file."""
        return json.dumps(
            {
                "partition": self.partition,
                "offset": self.offset,
                "timestamp_ms": self.timestamp_ms,
                "key": _text(self.key),
                "value": _text(self.value),
                "headers": [[name, _text(value)] for name, value in self.headers],
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote."""
        told = json.loads(line)
        headers = tuple((name, _bytes(value) or b"") for name, value in told.pop("headers"))
        return cls(
            **told | {"key": _bytes(told["key"]), "value": _bytes(told["value"])}, headers=headers
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample in *folder*; its own folder is only read, a copy may be worked on."""

    folder: Path

    @property
    def lake(self) -> Lake:
        """The lake of the sample."""
        return Lake(LakeConfig(root=str(self.folder / "lake")))

    @property
    def expected(self) -> dict[str, Any]:
        """What the release that wrote the sample read from it."""
        told: dict[str, Any] = json.loads((self.folder / "expected.json").read_text())
        return told

    @property
    def topics(self) -> Mapping[str, Mapping[str, Any]]:
        """Partitions, settings and ends of each topic, by its name."""
        told: dict[str, dict[str, Any]] = json.loads((self.folder / "topics.json").read_text())
        return told

    @property
    def trusted(self) -> TrustedKeys:
        """Whose models are believed."""
        return TrustedKeys.load(self.folder / "trusted.keys")

    @property
    def signing_key(self) -> SigningKey:
        """The key that the sample's models are signed with. Git keeps no modes: it is set here."""
        path = self.folder / TEST_KEY
        path.chmod(0o600)
        return SigningKey.load(path)

    def records(self, topic: str) -> list[Record]:
        """Return the records of *topic*, by partition and offset."""
        return _records(self.folder / "topics" / f"{topic}.jsonl")

    def further(self) -> dict[str, list[Record]]:
        """Return what services of old send after the sample ends, by topic."""
        files = sorted((self.folder / "further").glob("*.jsonl"))
        return {path.stem: _records(path) for path in files}

    def compacted(self, topic: str) -> dict[bytes, bytes]:
        """Return the newest value of each key of *topic* that has one."""
        newest: dict[bytes, bytes] = {}
        for record in self.records(topic):
            newest.pop(record.key or b"", None)
            if record.value is not None:
                newest[record.key or b""] = record.value
        return newest


def copy_of(version: str, folder: Path) -> Sample:
    """Copy the sample of *version* to *folder*, which must not exist, to be worked on."""
    return Sample(Path(shutil.copytree(DATA / version, folder)))


def sums(folder: Path) -> str:
    """Return the digests of all files of a sample but their list, as `sha256sum` prints them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in paths
    )


def dump(kafka: KafkaConfig, names: Iterable[str], folder: Path) -> None:
    """Write the topics *names* to *folder*: ``topics/NAME.jsonl`` each, and ``topics.json``.

    Raises:
        ValueError: a topic has holes, which `restore` could not make again.
    """
    (folder / "topics").mkdir()
    told = {}
    for name in sorted(names):
        records, ends = _read(kafka, name)
        lines = [record.to_json() + "\n" for record in records]
        (folder / "topics" / f"{name}.jsonl").write_text("".join(lines))
        told[name] = {"partitions": len(ends), "config": _settings(kafka, name), "ends": ends}
    (folder / "topics.json").write_text(json.dumps(told, indent=1) + "\n")


def dump_further(kafka: KafkaConfig, sample: Sample, names: Iterable[str]) -> None:
    """Write the records of the topics *names* behind the ends of *sample* to its ``further/``."""
    (sample.folder / "further").mkdir(exist_ok=True)
    for name in sorted(names):
        ends = sample.topics[name]["ends"]
        records = [one for one in _read(kafka, name)[0] if one.offset >= ends[one.partition]]
        lines = [record.to_json() + "\n" for record in records]
        (sample.folder / "further" / f"{name}.jsonl").write_text("".join(lines))


def restore(sample: Sample, kafka: KafkaConfig) -> None:
    """Make the topics of *sample* on a broker that has none of them, each record at its offset."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    wanted = [
        NewTopic(name, told["partitions"], 1, config=dict(told["config"]))
        for name, told in sample.topics.items()
    ]
    for made in admin.create_topics(wanted, operation_timeout=30).values():
        made.result()
    found = _produce(kafka, {name: sample.records(name) for name in sample.topics})
    ends = {
        (name, number): end
        for name, told in sample.topics.items()
        for number, end in enumerate(told["ends"])
        if end
    }
    if found != ends:
        raise ValueError(f"the topics end at {found}, not at {ends}")


def send_further(sample: Sample, kafka: KafkaConfig) -> None:
    """Send what services of old send after the sample ends."""
    _produce(kafka, sample.further())


def go_on(rig: Rig, last: datetime) -> None:
    """Let a streams worker read the rest, and close all decisions up to *last*."""
    with rig.worker() as worker:
        until(lambda: _holds(rig, worker, rig.is_read), "the rest is read", 300)
        rig.close(last)
        until(lambda: _holds(rig, worker, rig.is_done), "every window is closed", 300)


def _holds(rig: Rig, worker: subprocess.Popen[bytes], claim: Callable[[], bool]) -> bool:
    """Return whether *claim* holds; on a busy machine the broker may be without a leader a moment.

    Raises:
        AssertionError: the worker has ended.
    """
    rig.answers(worker)
    try:
        return claim()
    except KafkaException:
        return False


def _produce(
    kafka: KafkaConfig, records: Mapping[str, Sequence[Record]]
) -> dict[tuple[str, int], int]:
    """Send *records* to their partitions; return the ends of topics and partitions after it."""
    ends: dict[tuple[str, int], int] = {}

    def delivered(error: object, message: Message) -> None:
        if error is not None:
            raise ValueError(f"a record was not delivered: {error}")
        place = str(message.topic()), int(message.partition() or 0)
        ends[place] = int(message.offset() or 0) + 1

    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
    for name, listed in records.items():
        for one in listed:
            headers: list[tuple[str, str | bytes | None]] = list(one.headers)
            producer.produce(name, one.value, one.key, one.partition, delivered, headers=headers)
    if producer.flush(60):
        raise ValueError("records were not acknowledged")
    return ends


def _records(path: Path) -> list[Record]:
    return [Record.from_json(line) for line in path.read_text().splitlines()]


def _read(kafka: KafkaConfig, name: str) -> tuple[list[Record], list[int]]:
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "dump"})
    numbers = sorted(reader.list_topics(name, timeout=60).topics[name].partitions)
    ends = [
        reader.get_watermark_offsets(TopicPartition(name, number), timeout=60)[1]
        for number in numbers
    ]
    reader.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number in numbers])
    records: list[Record] = []
    while len(records) < sum(ends):
        message = reader.poll(10)
        if message is None:
            raise ValueError(f"{name} has {len(records)} records, but ends at {ends}")
        assert message.error() is None
        records.append(_record(message))
    reader.close()
    records.sort(key=lambda record: (record.partition, record.offset))
    offsets = [(record.partition, record.offset) for record in records]
    if offsets != [(number, offset) for number in numbers for offset in range(ends[number])]:
        raise ValueError(f"{name} has holes")
    return records, ends


def _record(message: Message) -> Record:
    headers = message.headers() or []
    pairs: Sequence[tuple[str, Any]] = list(
        headers.items() if isinstance(headers, dict) else headers
    )
    key, value = message.key(), message.value()
    return Record(
        partition=int(message.partition() or 0),
        offset=int(message.offset() or 0),
        timestamp_ms=message.timestamp()[1],
        key=key.encode() if isinstance(key, str) else key,
        value=value.encode() if isinstance(value, str) else value,
        headers=tuple((name, bytes(told)) for name, told in pairs),
    )


def _settings(kafka: KafkaConfig, name: str) -> dict[str, str]:
    """Return the settings of a topic that are its own, not its broker's."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    (found,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name)]).values()
    topic_config = 1  # DYNAMIC_TOPIC_CONFIG
    entries = found.result().items()
    return {key: entry.value for key, entry in sorted(entries) if entry.source == topic_config}


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
