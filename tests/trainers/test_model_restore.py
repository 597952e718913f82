"""A lake that was lost is made again, models included, and its trainer goes on."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tests.cli.commands.test_train import model
from tests.streams.rig import ROOT, new_rig, send_traffic, until
from tests.trainers.cycles import KEY, cycle_of, live_version

from tidemill.deploy.local.supervisor import tidemill_command
from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import LIVE
from tidemill.schemas.models.signing import SigningKey, TrustedKeys, init_keys
from tidemill.trainers.model_restore import restore_models
from tidemill.trainers.publisher import KafkaModelTopic, MemoryModelTopic, Publisher
from tidemill.trainers.registry import Registry

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
DRILL = ROOT / "docs" / "howto" / "restore-a-lake.md"
TRUSTED = TrustedKeys.of([KEY.public])


@pytest.fixture
def topic(grown: Lake, make_loop: MakeLoop) -> MemoryModelTopic:
    """A topic with the models of a lake that is lost afterwards."""
    topic = MemoryModelTopic()
    made = cycle_of(make_loop(), grown, topic).run(force=True)
    assert {model.learner for model in made} == {"lightgbm", "logistic_regression"}
    assert live_version(topic) is not None
    return topic


@pytest.fixture
def again(grown: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow) -> Lake:
    """The lake that a replay has made: the same examples in other commits, and no model."""
    lake = Lake(LakeConfig(root=f"{grown.root}-again"))
    lake.create(make_loop())
    grow(lake, make_rows(3_000))
    return lake


def test_without_its_models_a_restored_lake_has_no_trainer(
    topic: MemoryModelTopic, again: Lake, make_loop: MakeLoop
) -> None:
    """The topic has later models than the registry could make: the hint says what to do."""
    with pytest.raises(ModelError) as error:
        cycle_of(make_loop(), again, topic).run(force=True)
    assert "tidemill model restore late-train" in error.value.hint


@pytest.mark.slow
def test_a_trainer_goes_on_after_the_models_that_were_restored(
    topic: MemoryModelTopic, again: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """The live model stays as it is, and later ones have later numbers."""
    loop, before, log = make_loop(), live_version(topic), len(topic.log)
    restored = restore_models(again, loop, topic, TRUSTED)
    assert restored[-1].number == max(model.number for model in restored)
    cycle = cycle_of(loop, again, topic)
    live = cycle.registry.live()
    assert live is not None
    assert live.version == before
    cycle.publish()
    assert live_version(topic) == before
    assert len(topic.log) == log, "what the topic has already is not written again"
    grow(again, make_rows(3_000, first=3_000))
    made = cycle.run(force=True)
    assert made
    assert min(model.number for model in made) > restored[-1].number
    promoted = [model for model in made if model.promoted]
    assert all(model.sequence > live.sequence for model in promoted)


@pytest.mark.slow
def test_the_online_learner_learns_a_restored_lake_from_its_first_row(
    topic: MemoryModelTopic, again: Lake, make_loop: MakeLoop
) -> None:
    """Its state counts commits of the lost lake: continued here it would skip rows."""
    restore_models(again, make_loop(), topic, TRUSTED)
    cycle = cycle_of(make_loop(), again, topic)
    cycle.run()
    assert cycle.online_run is not None
    assert cycle.online_run.learner.rows == 3_000


def test_a_lake_with_models_is_not_restored(
    topic: MemoryModelTopic, grown: Lake, make_loop: MakeLoop
) -> None:
    """Two models of one number would be two answers to what decided."""
    with pytest.raises(ModelError, match="already"):
        restore_models(grown, make_loop(), topic, TRUSTED)


def test_models_of_another_key_are_not_restored(
    topic: MemoryModelTopic, again: Lake, make_loop: MakeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may write to the topic must not get a model into the registry."""
    stranger = TrustedKeys.of([SigningKey.generate().public])
    assert restore_models(again, make_loop(), topic, stranger) == []
    assert "not restored" in caplog.text


def drill(loop: str, into: Path) -> str:
    """Return the commands of the page, for this loop and this folder."""
    [commands] = re.findall(r"```bash\n(.*?)```", DRILL.read_text(), re.DOTALL)
    lines = [line for line in commands.splitlines() if not line.startswith(("#", "export"))]
    script = "\n".join(lines).replace("my-loop", loop).replace("/var/lib/tidemill-again", str(into))
    return f'set -ex\ntidemill() {{ {shlex.quote(sys.executable)} -m tidemill "$@"; }}\n{script}'


@pytest.mark.soak
@pytest.mark.kafka
def test_the_drill_of_the_page_ends_with_a_lake_that_a_trainer_takes(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """A restore that nobody has tried is a hope."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    last = send_traffic(rig.producer(), range(2_000), seed=5)
    with rig.worker():
        rig.close(last)
        until(rig.is_done, "the lake that will be lost is done")
    signing, trusted = init_keys(tmp_path / "keys")
    registry = Registry(rig.lake, rig.loop.loop)
    live = model(7, promoted=True, reason="promoted: it is good")
    registry.add(live, b"tree")
    publisher = Publisher(KafkaModelTopic(kafka), rig.loop.loop, SigningKey.load(signing))
    publisher.publish(registry.manifest(live, len(b"tree"), LIVE), b"tree")
    env = rig.environment(
        TIDEMILL_SIGNING_KEY=str(signing), TIDEMILL_TRUSTED_KEYS=str(trusted), TIDEMILL_LAKE=""
    )
    again = tmp_path / "again"
    until_last = f"--until {last.isoformat()}"
    script = drill(rig.loop.loop, again).replace(
        "tidemill lake replay", "tidemill lake replay " + until_last
    )
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    train = tidemill_command("train", rig.loop.loop, "--once")
    made = subprocess.run(
        train, env=env | {"TIDEMILL_LAKE": str(again)}, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    restored = Registry(Lake(LakeConfig(root=str(again))), rig.loop.loop).live()
    assert restored is not None
    assert (restored.version, restored.sequence) == ("lightgbm-7", 7)
