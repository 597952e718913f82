"""The commands around models: what a person types and reads."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from tests.trainers.rig import received

from tidemill.cli.app import main
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import FieldType, Loop
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.manifest import DEFAULT_PAYLOAD, payload_digest
from tidemill.schemas.models.signing import SIGNING_KEY, TRUSTED_KEYS, SigningKey, TrustedKeys
from tidemill.trainers.registry import ModelVersion, Registry, default_version
from tidemill.trainers.rollout.by_hand import ByHand

LOOP = Loop.model_validate(
    {
        "loop": "offer",
        "decision": {"type": "bool", "default": False},
        "features": {"hour": "int"},
        "feedback": {"click": {"within": "30m"}},
        "label": {"sql": "count(*) > 0"},
        "policy": {"kind": "threshold"},
    }
)
SIGNATURE = FeatureSignature((SignatureField("hour", FieldType.INT),))


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake that the environment names."""
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path / "lake"))
    found = Lake(LakeConfig(root=str(tmp_path / "lake")))
    found.create(LOOP)
    return found


def model(number: int, *, promoted: bool, reason: str) -> ModelVersion:
    """A row of the registry with the payload ``tree``."""
    return ModelVersion(
        number=number,
        version=f"lightgbm-{number}",
        at=datetime(2026, 1, number, tzinfo=UTC),
        learner="lightgbm",
        loop_version=1,
        policy_version=1,
        label_type="bool",
        promoted=promoted,
        sequence=number if promoted else 0,
        reason=reason,
        metrics={"log_loss": 0.5},
        snapshot=3,
        labels=1_200,
        until=datetime(2026, 1, 1, tzinfo=UTC),
        later_from=None,
        trained_on_rows=1_000,
        base_rate=0.2,
        seed=7,
        wall_s=1.5,
        cpu_s=1.2,
        digest=payload_digest(b"tree"),
        features=SIGNATURE.to_json(),
    )


def test_keys_init_makes_a_pair_and_says_how_to_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two lines can be pasted into a shell."""
    assert main(["keys", "init", str(tmp_path / "keys")]) == 0
    lines = capsys.readouterr().out.splitlines()
    env = dict(line.split("#")[0].strip().removeprefix("export ").split("=") for line in lines)
    key = SigningKey.from_env(env)
    assert TrustedKeys.from_env(env).verify(key.id, key.sign(b"x"), b"x")
    assert set(env) == {SIGNING_KEY, TRUSTED_KEYS}
    assert main(["keys", "init", str(tmp_path / "keys")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_models_shows_every_version_and_why(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that were not promoted: they are the question people come with."""
    registry = Registry(lake, "offer")
    registry.add(model(1, promoted=True, reason="promoted: it is good"), b"tree")
    registry.add(model(2, promoted=False, reason="not promoted: it is worse"), b"tree")
    assert main(["model", "list", "offer", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["version"], first["live"], first["promoted"]) == ("lightgbm-1", True, True)
    assert (second["live"], second["reason"]) == (False, "not promoted: it is worse")
    assert "features" not in first
    assert main(["model", "list", "offer"]) == 0
    shown = capsys.readouterr().out
    assert "lightgbm-2" in shown
    assert "live" in shown
    assert "lightgbm-2 not promoted: it is worse" in shown.splitlines()


def test_a_model_that_was_judged_by_rewards_shows_them(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that the default took over after it."""
    registry = Registry(lake, "offer")
    rewards = {"reward": 0.25, "default_reward": 0.125, "reward_dr": 0.26, "look": 1.0}
    params = {"max_weight": 20.0}
    good = model(1, promoted=True, reason="promoted: reward 0.25")
    registry.add(replace(good, metrics=rewards, params=params), b"tree")
    back = default_version(
        LOOP,
        registry,
        at=datetime(2026, 1, 2, tzinfo=UTC),
        reason="taken back: it earns less",
        metrics={},
        snapshot=4,
        until=None,
    )
    registry.add(back, DEFAULT_PAYLOAD)
    assert main(["model", "list", "offer"]) == 0
    shown = capsys.readouterr().out
    assert "of default" in shown
    assert "0.125" in shown
    assert "default-2 taken back: it earns less" in shown.splitlines()
    assert main(["model", "show", "offer", "lightgbm-1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("lightgbm-1 is not live: promoted: reward 0.25")
    assert "max_weight 20" in shown
    assert "default_reward 0.125" in shown
    assert main(["model", "show", "offer", "default-2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["live"] is True
    assert main(["model", "show", "offer", "lightgbm-9"]) == 2
    assert "model list offer" in capsys.readouterr().err


def test_models_of_an_unknown_loop_makes_nothing(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error must not leave a folder in the lake."""
    assert main(["model", "list", "ofer"]) == 2
    assert "no ofer" in capsys.readouterr().err
    assert not (Path(lake.root) / "ofer").exists()


def test_train_without_settings_names_the_first_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what to do about it."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    assert main(["train", "offer", "--once"]) == 2
    assert "KAFKA_BOOTSTRAP_SERVERS is not set" in capsys.readouterr().err


def test_model_list_says_which_model_is_in_which_stage(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    """Since when, on how many rows, by whom and why; and that the loop is pinned."""
    registry = Registry(lake, "offer")
    registry.add(model(1, promoted=True, reason="promoted: it is good"), b"tree")
    registry.add(model(2, promoted=True, reason="promoted: it is better"), b"tree")
    hand = ByHand(LOOP, lake, who="ada@desk")
    hand.roll_back("lightgbm-1", "it is worse")
    hand.pin(None, "a campaign")
    assert main(["model", "list", "offer", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["live"], first["stage"], first["rows"]) == (True, "live", 0)
    assert (first["who"], first["why"]) == ("ada@desk", "it is worse")
    assert "serving" not in first, "no Kafka was asked"
    assert (second["live"], second["stage"]) == (False, "promoted")
    assert main(["model", "list", "offer"]) == 0
    shown = capsys.readouterr().out
    assert "ada@desk" in shown
    assert "offer is pinned since" in shown
    assert "by ada@desk: a campaign" in shown


def test_a_change_by_hand_without_settings_names_the_first_one(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is recorded that could not be published."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    assert main(["model", "freeze", "offer", "--why", "an audit"]) == 2
    assert "KAFKA_BOOTSTRAP_SERVERS is not set" in capsys.readouterr().err
    assert not lake.has_table("offer", "stages")


@pytest.mark.kafka
def test_a_rollback_by_command_is_what_a_worker_reads(
    kafka: KafkaConfig,
    lake: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No trainer runs: record, topic, subscriber, acknowledgement of what a worker has read."""
    loop = LOOP.model_copy(update={"loop": f"offer-{uuid4().hex[:8]}"})
    lake.create(loop)
    key = SigningKey.generate()
    key.save(tmp_path / "signing.key")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "signing.key"))
    registry = Registry(lake, loop.loop)
    registry.add(model(1, promoted=True, reason="promoted: it is good"), b"tree")
    registry.add(model(2, promoted=True, reason="promoted: it is better"), b"tree")
    arguments = ["model", "rollback", loop.loop, "lightgbm-1", "--why", "it is worse"]
    assert main([*arguments, "--as", "ada"]) == 0
    assert "lightgbm-1 decides from now on (sequence 3)" in capsys.readouterr().out
    [taken] = received(kafka, loop, key)
    manifest = taken.manifest
    assert (manifest.version, manifest.sequence, manifest.rollback) == ("lightgbm-1", 3, True)
    assert main([*arguments, "--as", "ada"]) == 0
    assert "is live already" in capsys.readouterr().out
