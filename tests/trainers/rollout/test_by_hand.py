"""What a person changes, with a trainer that runs, one that is dead, and kills in between."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import polars as pl
import pytest
from tests.trainers.cycles import KEY, cycle_of
from tests.trainers.rollout.rig import NOW, STAGED, Rig, newest, offer, version

from tidemill.errors import ModelError, RequestError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.tables import Table
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import CANARY, DEFAULT, SHADOW
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.trainers.model_restore import restore_models
from tidemill.trainers.publisher import KeyedRecord, MemoryModelTopic
from tidemill.trainers.registry import Registry
from tidemill.trainers.rollout.by_hand import ByHand
from tidemill.trainers.rollout.stages import STAGES_TABLE

Change = Callable[[ByHand], object]
ByName = Mapping[str, Change]

COMMANDS: ByName = {
    "promote": lambda hand: hand.promote(version(1), "it was better"),
    "roll back": lambda hand: hand.roll_back(None, "it is worse"),
    "pin": lambda hand: hand.pin(version(1), "a campaign"),
    "freeze": lambda hand: hand.freeze("an audit"),
}


class Killed(BaseException):
    """Stands for SIGKILL: no code of the product catches it."""


class Moment:
    """One step of one process: before its commit of a change, after it, or a write to the topic.

    *then* happens there, once.
    """

    def __init__(self, step: int, then: Callable[[], None]) -> None:
        self._left, self._then = step, then

    def pass_by(self) -> None:
        """Say that the process is at its next step."""
        self._left -= 1
        if self._left == 0:
            self._then()

    @property
    def is_past(self) -> bool:
        """Whether it has happened."""
        return self._left <= 0


class SteppedLake(Lake):
    """A lake whose commits of changes are moments."""

    def __init__(self, config: LakeConfig, moment: Moment) -> None:
        super().__init__(config)
        self.moment = moment

    def table(self, loop_name: str, name: str) -> Table:
        """Return the table; that of changes is stepped."""
        table = super().table(loop_name, name)
        return SteppedTable(self, table) if name == STAGES_TABLE else table


class SteppedTable(Table):
    """A table of a `SteppedLake`."""

    def __init__(self, lake: SteppedLake, table: Table) -> None:
        self.__dict__.update(vars(table))
        self._lake = lake

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
        is_new: bool = True,
    ) -> int:
        """Append, with a moment before and one after."""
        self._lake.moment.pass_by()
        done = super().append(frame, swaps=swaps, metadata=metadata, is_new=is_new)
        self._lake.moment.pass_by()
        return done


class SteppedTopic(MemoryModelTopic):
    """A topic whose writes are moments of one of its writers; *log* is shared."""

    def __init__(self, log: list[KeyedRecord], moment: Moment) -> None:
        super().__init__()
        self.log, self._moment = log, moment

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Append, with a moment before."""
        self._moment.pass_by()
        super().write(items)


@pytest.fixture
def rig(lake: Lake) -> Rig:
    """A loop whose third model waits to enter; the second is live, the first was."""
    rig = Rig(lake, offer())
    for _ in range(2):
        rig.made()
        rig.settle()
    rig.made()
    return rig


def stepped(rig: Rig, moment: Moment) -> Rig:
    """Return another process on the same lake and topic, with moments."""
    assert isinstance(rig.topic, MemoryModelTopic)
    lake = SteppedLake(LakeConfig(root=rig.lake.config.root), moment)
    return Rig(lake, rig.loop, SteppedTopic(rig.topic.log, moment))


def interleaved(rig: Rig, first: Change | None, second: Change | None, step: int) -> bool:
    """Let one process act, and the other one between two of its steps; None is the trainer.

    Return whether the first came to that step.
    """

    def act(on: Rig, change: Change | None) -> None:
        if change is None:
            on.settle()
        else:
            on.person().does(change)

    assert isinstance(rig.topic, MemoryModelTopic)
    other = Rig(Lake(rig.lake.config), rig.loop, SteppedTopic(rig.topic.log, Moment(0, _nothing)))
    moment = Moment(step, lambda: act(other, second))
    act(stepped(rig, moment), first)
    if not moment.is_past:
        act(other, second)
    return moment.is_past


def _nothing() -> None:
    return


def assert_agreed(rig: Rig, *, goes_on: bool) -> None:
    """Records, topic and workers agree, also a worker that has read all there ever was."""
    if goes_on:
        rig.start()
        rig.settle()
    registry = Registry(rig.lake, rig.loop.loop)
    numbers = [each.number for each in registry.stages.standing.changes]
    assert numbers == list(range(1, len(numbers) + 1))
    live = registry.live()
    assert live is not None
    slot = rig.slot()
    assert slot is not None
    assert (slot.version, slot.sequence) == (live.version, live.sequence)
    assert isinstance(rig.topic, MemoryModelTopic)
    followed = newest(rig.topic.log, "live")
    assert followed == slot, "a worker that runs all the time ends with the same model"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("comes_second", ["person", "trainer"])
def test_neither_fences_the_other_wherever_their_steps_meet(
    rig: Rig, command: str, comes_second: Literal["person", "trainer"]
) -> None:
    """A fenced trainer ends, and a command that a trainer fences changes nothing."""
    change = COMMANDS[command]
    first, second = (None, change) if comes_second == "person" else (change, None)
    root, met = rig.lake.config.root, 0
    for step in range(1, 7):
        lake = Lake(LakeConfig(root=f"{root}-{step}"))
        one = Rig(lake, rig.loop)
        for _ in range(2):
            one.made()
            one.settle()
        one.made()
        met += interleaved(one, first, second, step)
        assert_agreed(one, goes_on=False)
        assert_agreed(one, goes_on=True)
        if command in ("promote", "pin"):
            assert one.live == version(1), "what a person names is live"
        elif command == "roll back":
            assert one.live in (version(1), version(2)), "one before the live one decides"
    assert met >= 2


@pytest.mark.slow
@pytest.mark.parametrize("command", [*COMMANDS, "trainer"])
def test_a_kill_between_record_and_topic_loses_nothing(rig: Rig, command: str) -> None:
    """Whoever comes next publishes what the topic lacks."""

    def die() -> None:
        raise Killed

    root, killed = rig.lake.config.root, 0
    for step in range(1, 7):
        one = Rig(Lake(LakeConfig(root=f"{root}-{step}")), rig.loop)
        for _ in range(2):
            one.made()
            one.settle()
        one.made()
        dying = stepped(one, Moment(step, die))
        try:
            if command == "trainer":
                dying.settle()
            else:
                dying.person().does(COMMANDS[command])
        except Killed:
            killed += 1
        assert_agreed(one, goes_on=True)
    assert killed >= (2 if command == "freeze" else 3)


def test_a_command_publishes_what_a_killed_one_has_recorded(rig: Rig) -> None:
    """With the trainer dead nobody else would."""
    hand = ByHand(rig.loop, rig.lake, who="ada@desk", clock=lambda: NOW)
    hand.promote(version(1), "it was better")  # and killed here
    rig.person().does(lambda again: again.promote(version(1), "it was better"))
    assert_agreed(rig, goes_on=False)
    assert rig.live == version(1)


def test_a_candidate_that_was_judged_against_another_live_model_enters_nothing(rig: Rig) -> None:
    """The person has rolled back meanwhile: the next training judges against what is live then."""
    rig.person().does(lambda hand: hand.roll_back(None, "it is worse"))
    rig.settle()
    assert rig.live == version(1)
    rig.made()
    rig.settle()
    assert rig.live == version(4)


def test_a_rollback_is_a_new_sequence_of_an_older_model(rig: Rig) -> None:
    """Workers take no lower sequence, and no lower number without the flag."""
    before = rig.slot()
    rig.person().does(lambda hand: hand.roll_back(None, "it is worse"))
    slot = rig.slot()
    assert before is not None
    assert slot is not None
    assert (slot.number, slot.rollback, slot.sequence) == (1, True, before.sequence + 1)
    record = Registry(rig.lake, "offer").stages.standing.changes[-1]
    assert (record.who, record.why) == ("ada@desk", "it is worse")


def test_a_pinned_loop_judges_and_changes_no_stage(lake: Lake) -> None:
    """A campaign runs on the model that was chosen for it."""
    rig = Rig(lake, offer(rollout=STAGED))
    rig.made()
    rig.settle()
    rig.person().does(lambda hand: hand.pin(version(1), "a campaign"))
    rig.settle()
    rig.made()
    rig.look()
    assert (rig.live, rig.slot(CANARY)) == (version(1), None)
    assert [model.promoted for model in rig.registry.models()] == [True, True], "it judges"
    rig.person().does(lambda hand: hand.release("it is over"))
    rig.look()
    shadow = rig.slot(SHADOW)
    assert shadow is not None
    assert shadow.version == version(2), "what waited enters once it may"


def test_the_default_can_be_promoted_and_a_model_after_it(rig: Rig) -> None:
    """The way out when every model is wrong."""
    rig.person().does(lambda hand: hand.promote(DEFAULT, "all are wrong"))
    slot = rig.slot()
    assert slot is not None
    assert slot.learner == DEFAULT
    assert Registry(rig.lake, "offer").model() is None
    rig.person().does(lambda hand: hand.promote(version(2), "it was right"))
    assert_agreed(rig, goes_on=False)
    assert rig.live == version(2)


def test_an_unknown_version_lists_those_there_are(rig: Rig) -> None:
    """A typing error in the night."""
    hand = ByHand(rig.loop, rig.lake, who="ada@desk")
    with pytest.raises(RequestError, match="it has lightgbm-1, lightgbm-2, lightgbm-3"):
        hand.promote("lightgbm-9", "")
    first = Rig(rig.lake, offer(loop="first"))
    first.made()
    first.settle()
    with pytest.raises(RequestError, match="no other live model"):
        ByHand(first.loop, first.lake, who="ada@desk").roll_back(None, "")


def test_a_model_that_workers_would_refuse_is_refused_here(rig: Rig) -> None:
    """Recorded as live it would leave all decisions to the default."""
    rig.made(label_digest="0" * 64)
    hand = ByHand(rig.loop, rig.lake, who="ada@desk")
    with pytest.raises(ModelError, match="another label"):
        hand.promote(version(4), "")
    assert rig.live == version(2)


@pytest.mark.slow
def test_a_person_changes_things_while_a_trainer_runs(
    grown: Lake, make_loop: Callable[..., Loop]
) -> None:
    """Real cycles in another thread: each side goes on with what the other has recorded."""
    loop, topic = make_loop(), MemoryModelTopic()
    cycle = cycle_of(loop, grown, topic)
    cycle.run()
    first = cycle.registry.live()
    assert first is not None
    errors: list[BaseException] = []
    stop, went = threading.Event(), threading.Semaphore(0)

    def train() -> None:
        try:
            while not stop.is_set():
                cycle.run()
                went.release()
        except BaseException as error:
            errors.append(error)
            went.release()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        rig = Rig(Lake(grown.config), loop, topic)
        for change in (
            lambda hand: hand.promote(DEFAULT, "it is wrong"),
            lambda hand: hand.roll_back(None, "it was right"),
            lambda hand: hand.pin(None, "a campaign"),
            lambda hand: hand.freeze("an audit"),
            lambda hand: hand.release("it is over"),
        ):
            rig.person().does(change)
            went.acquire()
    finally:
        stop.set()
        thread.join()
    assert errors == []
    cycle.run()
    live = cycle.registry.live()
    assert live is not None
    assert live.version == first.version


@pytest.mark.parametrize("ends", [False, True])
def test_a_lake_that_lost_its_models_gets_their_stages_back(lake: Lake, ends: bool) -> None:
    """Later changes must have later sequences than every slot of the topic."""
    rig = Rig(lake, offer(rollout=STAGED | {"stages": ["canary", "live"]}))
    rig.made()
    rig.person().does(lambda hand: hand.promote(version(1), "at once"))
    rig.settle()
    rig.made()
    rig.settle()
    if ends:
        rig.person().does(lambda hand: hand.promote(version(2), "it is good"))
    again = Lake(LakeConfig(root=f"{lake.config.root}-again"))
    restore_models(again, rig.loop, rig.topic, TrustedKeys.of([KEY.public]))
    before = rig.slot(), rig.slot(CANARY)
    restored = Rig(again, rig.loop, rig.topic)
    restored.settle()
    assert (restored.slot(), restored.slot(CANARY)) == before
    assert restored.live == version(2 if ends else 1)
    restored.made()
    restored.person().does(lambda hand: hand.promote(version(1 + ends), "it was good"))
    restored.made()
    restored.settle()
    assert_agreed(restored, goes_on=True)
