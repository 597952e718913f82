"""The join of the benchmark in Quix Streams, run in a virtual environment that has it.

It imports nothing from this project. `join_interval(how="left")` returns null at once and the match
later; it cannot return one answer at the close. Decisions have at most one click here, so there is
no aggregation. State is in RocksDB with changelogs, with at-least-once delivery.
"""

import io
import json
import sys
from pathlib import Path

from fastavro import parse_schema, schemaless_reader
from quixstreams import Application
from quixstreams.models import Deserializer, SerializationContext

PREFIX_BYTES = 10  # of an Avro single object


class AvroEvent(Deserializer):  # type: ignore[misc]  # Quix is not installed where types are checked
    """Decodes an event with fastavro; times become microseconds, as the state store needs JSON."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._schema = parse_schema(json.loads(Path(path).read_text(), object_hook=_plain))

    def __call__(self, value: bytes, ctx: SerializationContext) -> object:
        """Return the event as a dict."""
        return schemaless_reader(io.BytesIO(value[PREFIX_BYTES:]), self._schema, None)


def _plain(part: dict[str, object]) -> dict[str, object]:
    """Return a part of a schema as a plain type: no datetime is made that JSON has to unmake."""
    return {name: value for name, value in part.items() if name != "logicalType"}


def _at_ms(value: dict[str, int], *_record: object) -> int:
    return value["at"] // 1000


def _example(decision: dict[str, object], click: dict[str, object] | None) -> dict[str, object]:
    return {**decision, "label": click is not None}


def main(path: str) -> None:
    """Join until it is ended, as the JSON file at *path* says."""
    asked = json.loads(Path(path).read_text())
    app = Application(
        broker_address=asked["bootstrap"],
        consumer_group=asked["group"],
        auto_offset_reset="earliest",
        state_dir=asked["state"],
        producer_extra_config={"compression.type": "lz4", "linger.ms": 100},
        consumer_extra_config={"fetch.message.max.bytes": 4_194_304},
        loglevel="WARNING",
    )

    def events(name: str) -> object:
        topic = app.topic(
            asked[name],
            value_deserializer=AvroEvent(asked[f"{name}_schema"]),
            key_deserializer="str",
            timestamp_extractor=_at_ms,
        )
        return app.dataframe(topic)

    within_ms, grace_ms = asked["within_ms"], asked["grace_ms"]
    joined = events("decisions").join_interval(  # type: ignore[attr-defined]
        events("feedback"),
        how="left",
        on_merge=_example,
        forward_ms=within_ms,
        grace_ms=within_ms + grace_ms,
    )
    joined.to_topic(app.topic(asked["examples"], key_serializer="str"))
    app.run()


if __name__ == "__main__":
    main(sys.argv[1])
