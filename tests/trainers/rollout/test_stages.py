"""The record of each change, and the topic that follows from it."""

from dataclasses import replace
from datetime import timedelta

from tests.trainers.cycles import KEY as OTHER_KEY
from tests.trainers.rollout.rig import NOW, STAGED, Rig, offer, version

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.progress_keys import STAGE_NUMBER
from tidemill.schemas.models.manifest import CANARY, DEFAULT, LIVE, SHADOW
from tidemill.trainers.publisher import MemoryModelTopic, Publisher
from tidemill.trainers.registry import Registry
from tidemill.trainers.rollout.slots import SlotPublisher, slots
from tidemill.trainers.rollout.stages import (
    STAGES_TABLE,
    ChangedTo,
    StageChange,
    Stages,
    Standing,
)


def change(standing: Standing, stage: ChangedTo, model: int) -> StageChange:
    """Return the next change, of a model to a stage."""
    return standing.next(stage, at=NOW, model=model, version=version(model), why="a test")


def after(*moves: tuple[ChangedTo, int]) -> Standing:
    """Return where a loop stands after some moves of models."""
    standing = Standing()
    for stage, model in moves:
        standing = Standing((*standing.changes, change(standing, stage, model)))
    return standing


def test_a_change_that_is_read_again_is_the_one_that_was_written(lake: Lake) -> None:
    """All that a person wants to know later is in the record."""
    stages = Stages(lake, "offer")
    lake.create(offer())
    made = stages.change(
        lambda now: replace(
            change(now, "canary", 4),
            share=0.05,
            since=NOW - timedelta(hours=1),
            metrics={"gain": 0.25},
            pinned=True,
        )
    )
    assert made is not None
    read = Stages(lake, "offer").read()
    assert read.changes == (made,)
    assert (read.is_pinned, read.is_frozen) == (True, False)


def test_who_loses_the_swap_reads_again_and_decides_again(lake: Lake) -> None:
    """Two writers are in order, and the second knows of the first."""
    lake.create(offer())
    one, other = Stages(lake, "offer"), Stages(lake, "offer")
    asked: list[int | None] = []

    def slow(standing: Standing) -> StageChange:
        asked.append(standing.number)
        if len(asked) == 1:
            other.change(lambda now: change(now, "live", 2))
        return change(standing, "live", 1)

    made = one.change(slow)
    assert asked == [None, 1]
    assert made is not None
    assert [each.model for each in Stages(lake, "offer").read().changes] == [2, 1]
    table = lake.table("offer", STAGES_TABLE)
    assert table.progress([STAGE_NUMBER]) == {STAGE_NUMBER: 2}


def test_a_move_back_to_an_older_model_is_a_rollback() -> None:
    """Workers refuse a lower number without the flag, also one that has missed what was between."""
    standing = after(("live", 3), ("live", 7), ("live", 5), ("live", 6))
    assert [each.rollback for each in standing.changes] == [False, False, True, True]
    assert [each.sequence for each in standing.changes] == [1, 2, 3, 4]


def test_the_slot_of_a_stage_that_ended_holds_the_default() -> None:
    """A tombstone could be written by anybody."""
    standing = after(("live", 1), ("shadow", 2), ("canary", 2))
    found = slots(standing)
    assert found[SHADOW].ended is not None
    assert found[CANARY].ended is None
    found = slots(after(("live", 1), ("shadow", 2), ("canary", 2), ("stopped", 2)))
    assert all(found[slot].ended is not None for slot in (SHADOW, CANARY))
    assert (found[LIVE].change.model, found[LIVE].ended) == (1, None)


def test_a_change_that_only_holds_moves_nothing() -> None:
    """Pinned, the canary goes on where it is."""
    standing = after(("live", 1), ("canary", 2), ("held", 1))
    assert slots(standing)[CANARY].ended is None
    assert standing.candidate is not None
    assert standing.candidate.model == 2


def test_the_topic_of_a_rollout_says_each_stage(lake: Lake) -> None:
    """A worker reads its stages from the topic alone: model, share, end."""
    rig = Rig(lake, offer(rollout=STAGED))
    rig.made()
    rig.settle()
    shadow, live = rig.slot(SHADOW), rig.slot(LIVE)
    assert shadow is not None
    assert (shadow.version, shadow.share, live) == (version(1), None, None)
    stages = rig.registry.stages
    stages.change(lambda now: replace(change(now, "canary", 1), share=0.2))
    rig.settle()
    canary, shadow = rig.slot(CANARY), rig.slot(SHADOW)
    assert canary is not None
    assert shadow is not None
    assert (canary.version, canary.share) == (version(1), 0.2)
    assert (shadow.learner, shadow.sequence) == (DEFAULT, canary.sequence)
    written = len(rig.topic.log) if isinstance(rig.topic, MemoryModelTopic) else 0
    rig.start()
    rig.settle()
    assert isinstance(rig.topic, MemoryModelTopic)
    assert len(rig.topic.log) == written, "what the topic has is not written again"


def test_a_lake_of_an_earlier_release_goes_on_with_what_is_live(lake: Lake) -> None:
    """It has no table of stages: what is live, and its sequence, are those of `promoted`."""
    rig = Rig(lake, offer())
    rig.made()
    assert not lake.has_table("offer", STAGES_TABLE)
    live = Registry(lake, "offer").live()
    assert live is not None
    assert (live.version, live.sequence) == (version(1), 1)
    rig.settle()
    [adopted] = rig.registry.stages.standing.changes
    assert (adopted.stage, adopted.version, adopted.sequence) == ("live", version(1), 1)
    rig.made()
    rig.settle()
    assert rig.live == version(2)


def test_without_a_rollout_the_topic_is_what_it_was(lake: Lake) -> None:
    """Byte for byte: workers of earlier releases go on."""
    rig = Rig(lake, offer())
    topic = MemoryModelTopic()
    plain = Publisher(topic, "offer", OTHER_KEY)
    rig.slots = SlotPublisher(rig.registry, Publisher(rig.topic, "offer", OTHER_KEY))
    for _ in range(3):
        number = rig.made()
        rig.settle()
        model = rig.registry.models()[-1]
        payload = f"tree {number}".encode()
        plain.publish(rig.registry.manifest(model, len(payload), LIVE), payload)
    assert isinstance(rig.topic, MemoryModelTopic)
    assert rig.topic.log == topic.log


def test_two_that_publish_at_once_end_with_the_newest_record(lake: Lake) -> None:
    """A trainer that read the records too early writes them again."""
    is_first = True
    rig = Rig(lake, offer())
    for _ in range(2):
        rig.made()
        rig.settle()

    class Interrupted(MemoryModelTopic):
        """A topic before whose first write a person rolls back."""

        def write(self, items: object) -> None:
            nonlocal is_first
            if is_first:
                is_first = False
                rig.person().does(lambda hand: hand.roll_back(None, "it is worse"))
            super().write(items)  # type: ignore[arg-type]  # pairs

    rig.topic = Interrupted()
    rig.start()
    rig.settle()
    slot = rig.slot()
    assert slot is not None
    assert slot.version == rig.live
