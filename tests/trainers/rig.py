"""Helpers for tests of the trainer process: commits, processes, and the expected learner."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from tidemill.deploy.local.supervisor import tidemill_command
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.kafka import KafkaConfig, Tail
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.assembler import Delivery, ModelAssembler
from tidemill.schemas.models.manifest import LIVE, payload_digest
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.trainers.commit_log import commits_after
from tidemill.trainers.learners.online import OnlineLearner
from tidemill.trainers.registry import ModelVersion, Registry

KEY = SigningKey.generate()
DEADLINE_S = 300.0
ONLINE_LEARNER = "logistic_regression"


def commit(lake: Lake, loop: Loop, rows: pl.DataFrame) -> int:
    """Commit rows to the examples as a worker does; return the version."""
    examples = lake.table(loop.loop, "examples")
    before = examples.progress(["frontier/0"])["frontier/0"]
    return examples.append(rows, swaps=[CompareAndSwap("frontier/0", before, (before or 0) + 1)])


def received(
    kafka: KafkaConfig, loop: Loop, key: SigningKey = KEY, slot: str = LIVE
) -> list[Delivery]:
    """Return the models a worker that starts now would assemble from one slot of the topic."""
    assembler = ModelAssembler(
        TrustedKeys.of([key.public]), lambda name: name == loop.loop, slots=[slot]
    )
    tail, found = Tail(kafka, topics.MODELS), list[Delivery]()
    try:
        while not tail.caught_up:
            for record in tail.poll(0.2):
                out = assembler.feed(record.key, record.value)
                if isinstance(out, Delivery):
                    found.append(out)
    finally:
        tail.close()
    return found


def wait_for(true: Callable[[], bool]) -> None:
    """Poll until *true*, or fail at the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def online_models(lake: Lake, loop: Loop) -> list[ModelVersion]:
    """Return the versions that the online learner has offered."""
    found = Registry(lake, loop.loop).models()
    return [model for model in found if model.learner == ONLINE_LEARNER]


def is_taught(lake: Lake, loop: Loop, rows: int) -> bool:
    """Whether the online learner has offered a state after so many rows."""
    return any(model.trained_on_rows == rows for model in online_models(lake, loop))


def undisturbed(lake: Lake, loop: Loop) -> dict[int, str]:
    """Digest of the online learner after so many rows, if nothing had ever gone wrong."""
    assert loop.models.online is not None
    learner, digests = OnlineLearner(loop, loop.models.online), {}
    for version, rows in commits_after(lake.table(loop.loop, "examples"), -1, pl.Series):
        learner.learn(version, rows)
        digests[learner.rows] = payload_digest(learner.state().to_bytes())
    return digests


def assert_learned_once(lake: Lake, loop: Loop, rows: Sequence[int]) -> None:
    """A state was offered after so many *rows* each, bit for bit that of an undisturbed learner."""
    digests = undisturbed(lake, loop)
    told = [(model.trained_on_rows, model.digest) for model in online_models(lake, loop)]
    assert told == [(count, digests[count]) for count in rows]
    numbers = [model.number for model in Registry(lake, loop.loop).models()]
    assert numbers == list(range(1, len(numbers) + 1))
    learned = lake.table(loop.loop, "online_predictions").read(["decision_id"])
    assert learned.height == learned["decision_id"].n_unique() == max(rows)


class TrainerProcess:
    """A trainer of *loop* as a supervisor starts it; what it says is kept in *folder*.

    *program* is Python that gets the loop's name as its argument, instead of ``tidemill train``.
    """

    def __init__(
        self, kafka: KafkaConfig, lake: Lake, loop: Loop, folder: Path, program: str | None = None
    ) -> None:
        KEY.save(folder / "signing.key")
        env = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "TIDEMILL_LAKE": lake.config.root,
            "TIDEMILL_SIGNING_KEY": str(folder / "signing.key"),
        }
        command = tidemill_command("train", loop.loop, "--json")
        if program is not None:
            command = [sys.executable, "-c", program, loop.loop]
        self._out, self._errors = folder / "trainer.out", folder / "trainer.err"
        with self._out.open("w") as out, self._errors.open("w") as errors:
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=errors)

    @property
    def out(self) -> str:
        """Its standard output."""
        return self._out.read_text()

    @property
    def errors(self) -> str:
        """Its log."""
        return self._errors.read_text()

    def end(self) -> int:
        """Send SIGTERM, wait for its end, and return its exit status."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """Send SIGKILL, as abrupt as a power cut; do nothing if it has ended."""
        self.process.kill()
        self.process.wait()
