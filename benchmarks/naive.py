"""A first version of the join, for comparison: one Faust agent for each topic, fastavro, a dict.

It writes nothing, stores no offsets and loses everything in a crash; every simplification is in its
favour. It reads a number of events, prints their cost without its start, and ends.
"""

import io
import json
import logging
import os
import resource
import sys
from collections import deque
from datetime import datetime

import faust
from fastavro import parse_schema, schemaless_reader

from benchmarks.workload import GRACE, WITHIN
from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import event_schemas
from tidemill.schemas.published import latest_loop

STDOUT = 1
PREFIX_BYTES = 10  # of an Avro single object


class NaiveJoin:
    """Decisions wait in a dict for their feedback, or for their time to pass."""

    def __init__(self) -> None:
        self.waiting: dict[str, dict[str, object]] = {}
        self.early: dict[str, dict[str, object]] = {}
        self.order: deque[tuple[datetime, str]] = deque()
        self.examples = {"labeled": 0, "no_feedback": 0}

    def take_decision(self, event: dict[str, object]) -> None:
        """Add a decision, and drop those that have waited long enough."""
        at, key = event["at"], str(event["id"])
        if not isinstance(at, datetime):
            raise TypeError(f"at is {at!r}")
        if self.early.pop(key, None) is not None:
            self.examples["labeled"] += 1
        else:
            self.waiting[key] = event
            self.order.append((at, key))
        while self.order and self.order[0][0] + WITHIN + GRACE < at:
            if self.waiting.pop(self.order.popleft()[1], None) is not None:
                self.examples["no_feedback"] += 1

    def take_feedback(self, event: dict[str, object]) -> None:
        """Make an example, or wait for the decision."""
        key = str(event["decision_id"])
        if self.waiting.pop(key, None) is not None:
            self.examples["labeled"] += 1
        else:
            self.early[key] = event


class Meter:
    """Counts events; at the last one prints the CPU seconds since the first."""

    def __init__(self, limit: int) -> None:
        self.limit, self.events, self.started_s = limit, 0, 0.0

    def count(self) -> None:
        """Count one event."""
        if self.events == 0:
            self.started_s = _cpu_s()
        self.events += 1
        if self.events == self.limit:
            spent_s = _cpu_s() - self.started_s
            result = json.dumps({"events": self.events, "cpu_s": spent_s})
            os.write(STDOUT, f"{result}\n".encode())  # sys.stdout is Faust's log by now
            os._exit(0)  # a clean stop is not needed


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(bootstrap: str, name: str, limit: int) -> None:
    """Join the first *limit* events of the loop *name*."""
    logging.basicConfig(level=logging.WARNING)
    schemas = {
        subject.rsplit("/", 1)[1].split("_")[0]: parse_schema(dict(schema))
        for subject, schema in event_schemas(latest_loop(KafkaConfig(bootstrap), name)).items()
    }
    join, meter = NaiveJoin(), Meter(limit)
    app = faust.App(
        f"naive-{name}-{os.getpid()}",
        broker=f"kafka://{bootstrap}",
        store="memory://",
        value_serializer="raw",
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=5000,
        datadir=f"/tmp/naive-{os.getpid()}",
    )

    def read(value: bytes, kind: str) -> dict[str, object]:
        body = io.BytesIO(value[PREFIX_BYTES:])
        record = schemaless_reader(body, schemas[kind], None)
        if not isinstance(record, dict):
            raise TypeError(f"{kind} is {record!r}")
        return record

    async def decisions(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            join.take_decision(read(value, "Decision"))
            meter.count()

    async def feedback(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            join.take_feedback(read(value, "Feedback"))
            meter.count()

    app.agent(app.topic(topics.decisions(name), value_type=bytes))(decisions)
    app.agent(app.topic(topics.feedback(name), value_type=bytes))(feedback)
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
