"""A model is promoted and rolled back by commands, and a worker follows, over a real Kafka."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.explain.decided import LOOPS, DecidedLake, trained
from tests.serving.models import FEATURES

from tidemill import Client
from tidemill.cli.app import main
from tidemill.kafka import KafkaConfig
from tidemill.schemas.models.signing import SIGNING_KEY, SigningKey, TrustedKeys
from tidemill.schemas.published import publish_loop


def until(claim: Callable[[], bool]) -> float:
    """Wait until *claim* is true and return how long it took, in seconds."""
    began = time.monotonic()
    while not claim():
        time.sleep(0.005)
    return time.monotonic() - began


@pytest.mark.kafka
@pytest.mark.slow
def test_a_worker_follows_promotions_and_rollbacks_without_a_trainer(
    kafka: KafkaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At night: the newest model is bad, and whoever is awake has one command."""
    loop = LOOPS["greedy"].model_copy(update={"loop": f"back-{uuid.uuid4().hex[:8]}"})
    publish_loop(kafka, loop)
    made = DecidedLake.of(loop, tmp_path / "lake")
    first, second = (made.live(trained(LOOPS["greedy"], "lightgbm")).version for _ in range(2))
    key = SigningKey.generate()
    key.save(tmp_path / "key.json")
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "key.json"))
    trusted = TrustedKeys.of([key.public])
    with Client.embedded(kafka, loops=(loop.loop,), trusted=trusted) as client:
        asked = client.loop(loop.loop)

        def decides(version: str | None) -> bool:
            return asked.get_decision(FEATURES).model_version == version

        assert decides(None), "nothing was published"
        for command, version in (
            (["promote", loop.loop, second], second),
            (["rollback", loop.loop, first], first),
            (["promote", loop.loop, second], second),
            (["rollback", loop.loop], first),
            (["promote", loop.loop, "default"], None),
        ):
            assert main(["model", *command, "--why", "a test"]) == 0
            took_s = until(lambda version=version: decides(version))  # type: ignore[misc]  # a str
            print(f"{command[0]}: {took_s:.3f} s until {version} decides")
