"""Live traffic: decisions at a steady rate as the clock has it, clicks when they are due."""

import heapq
import json
import random
import sys
import time
from datetime import UTC, datetime, timedelta

from benchmarks.workload import clicked, decision
from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Writer
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import DecisionEncoder, FeedbackEncoder
from tidemill.schemas.published import latest_loop
from tidemill.schemas.registry.kafka import KafkaSchemaStore

PAUSE_S = 0.002
EVENTS_A_DECISION = 1.5  # every second one gets a click


def main(bootstrap: str, name: str, events_per_second: float, seconds: float) -> None:
    """Write events for so long; print how many, and how late the latest of them was written."""
    kafka = KafkaConfig(bootstrap)
    bench, store = latest_loop(kafka, name), KafkaSchemaStore(kafka)
    encode, encode_click = DecisionEncoder(bench, store), FeedbackEncoder(bench, store)
    decided, given = topics.decisions(name), topics.feedback(name)
    writer, chance = Writer(kafka, linger_ms=5), random.Random(7)
    every = timedelta(seconds=EVENTS_A_DECISION / events_per_second)
    due: list[tuple[datetime, int, str]] = []
    start = datetime.now(UTC)
    end, number, clicks, behind = start + timedelta(seconds=seconds), 0, 0, timedelta(0)
    while (now := datetime.now(UTC)) < end:
        while (at := start + every * number) <= now:
            event = decision(number, at, chance)
            key = str(event["id"])
            writer.write(decided, key.encode(), encode.encode(event))
            if number % 2:
                heapq.heappush(due, (at + bench.wait * chance.random(), number, key))
            number += 1
        behind = max(behind, datetime.now(UTC) - now)
        while due and due[0][0] <= now:
            at, of, key = heapq.heappop(due)
            click = clicked(at, f"click-{of}", key)
            writer.write(given, key.encode(), encode_click.encode("click", click))
            clicks += 1
        time.sleep(PAUSE_S)
    undelivered = writer.flush(30)
    if undelivered or writer.dropped or writer.failed:
        raise BrokerError(f"{undelivered} events are not there", hint="take a lower rate")
    writer.close()
    print(json.dumps({"events": number + clicks, "behind_s": behind.total_seconds()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
