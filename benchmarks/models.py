"""Many models in one serving worker: its start, memory, decisions in process and over HTTP.

Each loop has a live LightGBM model of 100 trees of 31 leaves. A few are trained and published under
all loops, each signed for its loop. A worker of one loop is measured the same way; the last figures
are of publications to four workers of one loop.
"""

import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from benchmarks.decide import decision_request
from benchmarks.fleet import publish_fleet
from benchmarks.httpload import generate
from benchmarks.model import announcement, training_rows
from benchmarks.processes import ALL_CORES, Measured, module_command
from benchmarks.workload import features
from tidemill.deploy.local.kafka_settings import free_port
from tidemill.deploy.local.supervisor import answers, tidemill_command
from tidemill.kafka import KafkaConfig, Tail, write_all
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.schemas.models.manifest import Ack, ModelManifest, chunk_key, chunked, sign
from tidemill.schemas.models.signing import TRUSTED_KEYS, SigningKey, TrustedKeys, init_keys
from tidemill.serving.client.client import Client
from tidemill.serving.client.embedded import open_transport
from tidemill.trainers.learners.batch import Trained, train
from tidemill.trainers.publisher import KafkaModelTopic, Publisher

Say = Callable[[str], None]
Keyed = tuple[bytes, bytes | None]
DIFFERENT = 3  # models that are trained; each loop gets one of them
ROWS = 20_000
READY_S = 900.0
AT_ONCE = 50  # loops whose models are written in one request for acknowledgements
WORKERS, PUBLICATIONS = 4, 50
REQUESTS = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Loops with a model each on the topics of a broker."""

    kafka: KafkaConfig
    loops: Sequence[Loop]
    trained: Sequence[Trained]
    private: Path
    public: Path

    @property
    def environment(self) -> dict[str, str]:
        """Where a worker finds them."""
        return {"KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap, TRUSTED_KEYS: str(self.public)}

    def model(self, which: int, number: int) -> tuple[ModelManifest, bytes]:
        """Return model *number* of loop *which*."""
        trained, loop = self.trained[(which + number) % len(self.trained)], self.loops[which]
        said = replace(
            announcement(loop, trained),
            version=f"lightgbm-{number}",
            number=number,
            sequence=number,
            created_at=datetime.now(UTC),
        )
        return said, trained.payload

    def records(self, number: int) -> list[Keyed]:
        """Return what publishes model *number* of each loop."""
        key = SigningKey.load(self.private)
        found: list[Keyed] = []
        for which in range(len(self.loops)):
            said, payload = self.model(which, number)
            for place, piece in enumerate(chunked(payload) if said.chunks else ()):
                found.append((chunk_key(said.loop, said.digest, place), piece))
            found.append((said.key, sign(said, key, payload=None if said.chunks else payload)))
        return found

    def publish(self, records: Sequence[Keyed]) -> None:
        """Write *records* to the model topic."""
        for first in range(0, len(records), AT_ONCE):
            write_all(self.kafka, topics.MODELS, records[first : first + AT_ONCE], timeout_s=120)


def measure_models(
    kafka: KafkaConfig, *, models: int, seconds: float, say: Say
) -> dict[str, object]:
    """Return the figures of the report's `models`, of so many loops with a model each."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        private, public = init_keys(Path(folder))
        TrustedKeys.load(public)
        loops = publish_fleet(kafka, models)
        trained = [_trained(loops[0], seed) for seed in range(DIFFERENT)]
        fleet = Fleet(kafka=kafka, loops=loops, trained=trained, private=private, public=public)
        fleet.publish(fleet.records(1))
        say(f"models: {models} are published, of {len(trained[0].payload):,} bytes")
        one = _serve(fleet, 1, seconds, say)
        many = _serve(fleet, models, seconds, say)
        inside = _inside(fleet, Path(folder))
        say(f"models: in process, {inside}")
        published = _publications(fleet, say)
    return {
        "models": models,
        "one": one,
        "many": many,
        "in_process": inside,
        "published": published,
    }


def _trained(loop: Loop, seed: int) -> Trained:
    rows = training_rows(ROWS)
    return train(rows, loop, Batch(rounds=100, seed=seed, params=_params(seed)))


def _params(seed: int) -> dict[str, bool | int | float | str]:
    return {"num_leaves": 31, "feature_fraction": 0.9, "learning_rate": 0.1 - 0.01 * seed}


def _serve(fleet: Fleet, count: int, seconds: float, say: Say) -> dict[str, float]:
    """Measure `tidemill serve` over HTTP with the first *count* loops."""
    names, port = [loop.loop for loop in fleet.loops[:count]], free_port()
    begun = time.monotonic()
    with Measured(
        tidemill_command("serve", *names, "--port", str(port)), fleet.environment
    ) as server:
        url = f"http://127.0.0.1:{port}/readyz"
        server.until(lambda: answers(url), timeout_s=READY_S)
        ready_s = time.monotonic() - begun
        process = psutil.Process(server.process.pid)
        memory_mb = process.memory_info().rss / 1e6
        chance = random.Random(5)
        requests = [
            decision_request(chance.choice(names), features(n, chance)) for n in range(REQUESTS)
        ]
        most = generate(port, requests, expected=b'"source":"model"', seconds=seconds)
        half = _at_half(port, requests, most.per_second, seconds)
        arriving = _while_models_arrive(
            fleet, count, lambda: _at_half(port, requests, most.per_second, seconds)
        )
        figures = {
            "ready_s": ready_s,
            "memory_mb": memory_mb,
            "loaded_mb": process.memory_info().rss / 1e6,
            "trial_mb": sum(each.memory_info().rss for each in process.children()) / 1e6,
            "http_per_second": most.per_second,
            "http_p99_ms": half,
            "http_p99_ms_while_models_arrive": arriving,
        }
    say(f"models: {count} over HTTP, {figures}")
    return figures


def _at_half(port: int, requests: Sequence[bytes], most: float, seconds: float) -> float:
    """Return the p99 at half of what the worker answers at most, in milliseconds."""
    half = most / 2
    expected = b'"source":"model"'
    return generate(port, requests, expected=expected, seconds=seconds, per_second=half).p99_ms


def _while_models_arrive(fleet: Fleet, count: int, act: Callable[[], float]) -> float:
    """Return what *act* returns while the next model of the first *count* loops arrives."""
    some = replace(fleet, loops=fleet.loops[:count])
    records = some.records(2 if count == 1 else 3)
    publishing = threading.Thread(target=some.publish, args=(records,))
    publishing.start()
    try:
        return act()
    finally:
        publishing.join()


def _inside(fleet: Fleet, folder: Path) -> dict[str, float]:
    asked = folder / "asked.json"
    asked.write_text(json.dumps([loop.loop for loop in fleet.loops]))
    arguments = (fleet.kafka.bootstrap, str(asked), str(fleet.public))
    with Measured(module_command("models", *arguments), cores=ALL_CORES) as embedded:
        return embedded.result()


def main(bootstrap: str, names: Sequence[str], keys: Path) -> None:
    """Decide in this process, of one loop and of all in random order; print the medians."""
    door = open_transport(
        KafkaConfig(bootstrap),
        loops=tuple(names),
        definitions=(),
        trusted=TrustedKeys.load(keys),
        name="bench",
        ready_s=READY_S,
    )
    chance = random.Random(5)
    asked = [features(number, chance) for number in range(1_000)]
    with Client.through(door) as client:
        calls = [client.loop(name).get_decision for name in names]
        for call in calls:
            if (found := call(asked[0]).source) != "model":
                raise RuntimeError(f"{found} decides: {door.worker.troubles()}")
        figures = {}
        for name, among in (("warm", calls[:1]), ("one", calls[:1]), ("random", calls)):
            taken = []
            for number in range(40_000):
                call, row = chance.choice(among), asked[number % len(asked)]
                before = time.perf_counter_ns()
                call(row, entity="user-17")
                taken.append(time.perf_counter_ns() - before)
                if number % 10_000 == 0:
                    door.worker.log.flush(60)
            figures[f"{name}_us"] = median(taken) / 1e3
    print(json.dumps(figures))


def _publications(fleet: Fleet, say: Say) -> dict[str, float]:
    """Return the seconds from a publication to the last acknowledgement of four workers."""
    loop, chance = fleet.loops[0], random.Random(7)
    publisher = Publisher(KafkaModelTopic(fleet.kafka), loop.loop, SigningKey.load(fleet.private))
    tail, taken = Tail(fleet.kafka, topics.ACKS), []
    with ExitStack() as stack:
        stack.callback(tail.close)
        for _ in range(WORKERS):
            port = free_port()
            command = tidemill_command("serve", loop.loop, "--port", str(port))
            server = stack.enter_context(Measured(command, fleet.environment, cores=ALL_CORES))
            url = f"http://127.0.0.1:{port}/readyz"
            server.until(lambda url=url: answers(url), timeout_s=READY_S)  # type: ignore[misc]
        for number in range(10, 11 + PUBLICATIONS):
            said, payload = fleet.model(0, number)
            started = time.monotonic()
            publisher.publish(said, payload)
            _until_acknowledged(tail, said)
            taken.append(time.monotonic() - started)
            time.sleep(chance.random())  # so that publications meet each moment of a round
    first, *rest = taken
    found = {
        "p50_s": float(np.quantile(rest, 0.5)),
        "p99_s": float(np.quantile(rest, 0.99)),
        "first_s": first,
    }
    say(f"models: published to the last of {WORKERS} acknowledgements, {found}")
    return found


def _until_acknowledged(tail: Tail, said: ModelManifest) -> None:
    """Wait until all workers serve the model of *said*."""
    serving: set[str] = set()
    while len(serving) < WORKERS:
        for record in tail.poll(0.01):
            ack = Ack.from_json(record.value or b"")
            if (ack.loop, ack.version) == (said.loop, said.version):
                if ack.status != "serving":
                    raise RuntimeError(f"{ack.worker} refuses {ack.version}: {ack.reason}")
                serving.add(ack.worker)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
