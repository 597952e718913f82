"""Training cycles as tests start them, and what their topics and loops hold."""

from datetime import UTC, datetime

from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.models.assembler import Delivery, ModelAssembler
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.publisher import ModelTopic, Publisher

KEY = SigningKey.generate()
NOW = datetime(2026, 2, 1, tzinfo=UTC)
BATCH_ONLY = {
    "batch": {
        "min_labels": 1000,
        "retrain": {"new_labels": 1000},
        "rounds": 20,
        "params": {"num_leaves": 7, "min_data_in_leaf": 20},
    },
    "online": None,
}


def online_of(loop: Loop) -> Online:
    """The online learner of a loop that has one."""
    assert loop.models.online is not None
    return loop.models.online


def cycle_of(loop: Loop, lake: Lake, topic: ModelTopic) -> TrainingCycle:
    """Return the cycle of a trainer that has just started, and counts labels in every cycle."""
    publisher = Publisher(topic, loop.loop, KEY)
    return TrainingCycle(loop, lake, publisher, clock=lambda: NOW, count_share=1.0)


def live_version(topic: ModelTopic) -> str | None:
    """Return the version a worker that starts now would serve."""
    assembler = ModelAssembler(TrustedKeys.of([KEY.public]))
    outs = [assembler.feed(key, value) for key, value in topic.read().items()]
    found = [out.manifest.version for out in outs if isinstance(out, Delivery)]
    assert assembler.pending() == []
    return found[-1] if found else None
