"""Rules from the command line to a decision, over a real Kafka."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.schemas.loops import minimal

from tidemill import Client
from tidemill.cli.app import main
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig
from tidemill.schemas.models.signing import SIGNING_KEY, SigningKey, TrustedKeys
from tidemill.schemas.published import publish_loop

RULES = """\
loop: {loop}
rules:
  - {{name: swiss, when: "country = 'CH'", replace: {action}}}
"""


def until(claim: Callable[[], bool]) -> None:
    """Wait until *claim* is true; the test's own time limit is that of the runner."""
    while not claim():
        time.sleep(0.02)


@pytest.mark.kafka
@pytest.mark.slow
def test_rules_reach_a_worker_and_are_taken_back(
    kafka: KafkaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At night: one command to stop it, one to undo that, and nothing is restarted."""
    loop = minimal(loop=f"ruled-{uuid.uuid4().hex[:8]}")
    default = loop.decision.default
    publish_loop(kafka, loop)
    Lake(LakeConfig(root=str(tmp_path / "lake"))).create(loop)
    key = SigningKey.generate()
    key.save(tmp_path / "key.json")
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "key.json"))
    other = str(not default).lower()
    (tmp_path / "rules.yaml").write_text(RULES.format(loop=loop.loop, action=other))
    trusted = TrustedKeys.of([key.public])
    with Client.embedded(kafka, loops=(loop.loop,), trusted=trusted) as client:
        asked = client.loop(loop.loop)

        def is_ruled() -> bool:
            found = asked.get_decision({"country": "CH", "visits": 3})
            return found.action is not default and found.policy_action is default

        assert not is_ruled()
        assert main(["rules", "set", str(tmp_path / "rules.yaml"), "--why", "a test"]) == 0
        until(is_ruled)
        assert asked.get_decision({"country": "AT", "visits": 3}).action is default
        assert main(["rules", "revert", loop.loop, "--why", "a test"]) == 0
        until(lambda: not is_ruled())
