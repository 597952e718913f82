"""Write a sample of every persistent format: `python -m tests.data.write_sample VERSION`.

It runs the real processes on a broker of its own: streams workers, trainers, a serving worker. An
existing sample is never written again: README.md says why.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from os import environ
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.data.contents import contents, continued
from tests.data.samples import DATA, SUMS, TEST_KEY, Sample, dump, dump_further, go_on, sums
from tests.data.traffic import (
    DECIDED,
    DELAYS,
    DELAYS_DECIDED,
    DELAYS_END,
    DELAYS_MIDDLE,
    DELAYS_NEWEST,
    DELAYS_PAUSE,
    END,
    NEWEST,
    OFFERS,
    OFFERS_2,
    SECOND,
    START,
    VERSION_2,
    Service,
    delays_traffic,
    offers_traffic,
)
from tests.streams.rig import PlainProducer, Rig, until

from tidemill.deploy.local.jars import cache_dir
from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.features.lake.compaction import compact_table
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.backfills import begin, complete, table_name
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.published import SHARED_TOPICS, produced_topics, publish_loop
from tidemill.serving.worker import ServingWorkerConfig, Worker
from tidemill.streams.reprocess.backfill import plan, run_slice
from tidemill.streams.reprocess.variants import variant
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.publisher import KafkaModelTopic, Publisher

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(sha256(b"a tidemill test key").digest()))
TRAINED = datetime(2026, 1, 1, 1, tzinfo=UTC)  # what the trainers' clock says
PHASE = 100 * SECOND  # so much traffic is read before more is sent: a commit or two


def write_sample(folder: Path) -> None:
    """Write the sample to the new *folder*; nothing of it is there after an error."""
    with (
        tempfile.TemporaryDirectory(prefix="tidemill-sample-") as work,
        EmbeddedKafka(cache=cache_dir(environ)) as broker,
    ):
        made, kafka = Path(work) / "sample", broker.config
        made.mkdir()
        _offers(kafka, made)
        _delays(kafka, made)
        _serve(kafka)
        names = {topic.name for topic in SHARED_TOPICS}
        for loop in (OFFERS_2, DELAYS):
            names |= set(produced_topics(loop).values())
        dump(kafka, names, made)
        (made / "worker.log").unlink()
        _forget_places(made / "lake")
        KEY.save(made / TEST_KEY)
        TrustedKeys.of([KEY.public]).save(made / "trusted.keys")
        sample = Sample(made)
        told = contents(sample) | {"continued": _continued(kafka, sample, Path(work) / "continued")}
        (made / "expected.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
        (made / SUMS).write_text(sums(made))
        shutil.copytree(made, folder)


def _offers(kafka: KafkaConfig, folder: Path) -> None:
    """Run the loop with two versions: the second is taken up by the worker that runs."""
    publish_loop(kafka, OFFERS)
    rig = Rig(kafka, OFFERS, folder)
    arrivals = offers_traffic(range(DECIDED))
    producers = [PlainProducer(kafka, loop) for loop in (OFFERS, OFFERS_2)]
    since = START - PHASE
    with rig.worker() as worker:
        while since < END:
            if since == VERSION_2:
                _train(kafka, rig.lake, OFFERS)
                publish_loop(kafka, OFFERS_2)
                rig.loop = OFFERS_2
                compact_table(rig.lake, OFFERS.loop, "decisions")
            until_ = since + PHASE
            Service(producers).send([one for one in arrivals if since <= one.arrives < until_])
            until(rig.is_read, "what was sent is read")
            until(lambda: rig.answers(worker), "the worker has taken up the version")
            since = until_
    _train(kafka, rig.lake, OFFERS_2)
    _publish_in_chunks(kafka, rig.lake)
    _backfill(rig.lake, "narrow", variant(OFFERS_2, within={"order": "30s"}, label="count(*) > 1"))


def _delays(kafka: KafkaConfig, folder: Path) -> None:
    """Run the loop with an activation; its logs are ended by request before a pause."""
    publish_loop(kafka, DELAYS)
    rig = Rig(kafka, DELAYS, folder)
    arrivals = delays_traffic(range(DELAYS_DECIDED))
    pause = DELAYS_MIDDLE + DELAYS_PAUSE
    service = Service([PlainProducer(kafka, DELAYS)])
    with rig.worker():
        service.send([one for one in arrivals if one.arrives < pause])
        until(rig.is_read, "what is before the pause is read")
        rig.close(DELAYS_MIDDLE)
        until(rig.is_done, "what is before the pause is closed")
        service.send([one for one in arrivals if pause <= one.arrives < DELAYS_END])
        until(rig.is_read, "the rest is read")
    _train(kafka, rig.lake, DELAYS)


def _continued(kafka: KafkaConfig, sample: Sample, folder: Path) -> dict[str, object]:
    """Go on with a copy of the sample in *folder*; return what comes of it, and until when."""
    shutil.copytree(sample.folder, folder)
    rest = (
        (OFFERS_2, offers_traffic(range(NEWEST)), END),
        (DELAYS, delays_traffic(range(DELAYS_NEWEST)), DELAYS_END),
    )
    until_ = {}
    for loop, arrivals, end in rest:
        arrivals = [one for one in arrivals if one.arrives >= end]
        versions = (OFFERS, OFFERS_2) if loop is OFFERS_2 else (DELAYS,)
        Service([PlainProducer(kafka, each) for each in versions]).send(arrivals)
        dump_further(kafka, sample, produced_topics(loop).values())
        last = max(one.arrives for one in arrivals)
        go_on(Rig(kafka, loop, folder), last)
        until_[loop.loop] = last.isoformat()
    return {"tables": continued(Sample(folder)), "until": until_}


def _train(kafka: KafkaConfig, lake: Lake, loop: Loop) -> None:
    publisher = Publisher(KafkaModelTopic(kafka), loop.loop, KEY)
    cycle = TrainingCycle(loop, lake, publisher, clock=lambda: TRAINED)
    for model in cycle.run(force=True):
        print(f"{loop.loop} {model.version}: {model.reason}")


def _publish_in_chunks(kafka: KafkaConfig, lake: Lake) -> None:
    """Publish a model as those over 200 kB travel, in a slot that nobody serves from."""
    cycle = TrainingCycle(OFFERS_2, lake, Publisher(KafkaModelTopic(kafka), OFFERS.loop, KEY))
    model = cycle.registry.newest("lightgbm")
    assert model is not None, "no model was trained in batch"
    payload = cycle.registry.payload(model)
    said = cycle.registry.manifest(model, len(payload), "chunked")
    Publisher(KafkaModelTopic(kafka), OFFERS.loop, KEY).publish(replace(said, chunks=1), payload)


def _backfill(lake: Lake, name: str, loop: Loop) -> None:
    made = plan(lake, loop, name)
    begin(lake, made)
    for number in range(made.slices):
        run_slice(lake, made, number)
    complete(lake.table(loop.loop, table_name(name)))


def _serve(kafka: KafkaConfig) -> None:
    """Let a serving worker take the models, and say so on the topic of acknowledgements."""
    worker = Worker(
        ServingWorkerConfig(kafka=kafka, name="w-1", trusted=TrustedKeys.of([KEY.public]))
    )
    worker.start()
    try:
        until(lambda: worker.ready, "the worker has read the topics")
        for loop in (OFFERS, DELAYS):
            until(lambda: worker.decider(loop.loop).model is not None, f"a model of {loop.loop}")  # noqa: B023
    finally:
        worker.close()


def _forget_places(lake: Path) -> None:
    """Take the address of this machine's folder out of the log entries that made the tables."""
    for entry in lake.rglob("_delta_log/*.json"):
        lines = [json.loads(line) for line in entry.read_text().splitlines()]
        for line in lines:
            told = line.get("commitInfo", {}).get("operationParameters", {})
            if "location" in told:
                told["location"] = "file:///lake/" + entry.parents[1].relative_to(lake).as_posix()
        if lake.as_posix() in entry.read_text():
            entry.write_text("".join(json.dumps(line) + "\n" for line in lines))


def main(arguments: Sequence[str]) -> int:
    """Write the sample of the version named; return the exit status."""
    if len(arguments) != 1:
        print("usage: python -m tests.data.write_sample VERSION", file=sys.stderr)
        return 2
    folder = DATA / arguments[0]
    if folder.exists():
        print(f"{folder} exists: a sample is never written again; see README.md", file=sys.stderr)
        return 1
    started = time.monotonic()
    write_sample(folder)
    print(f"wrote {folder} in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
