"""When a commit cycle is due. The schedules prove what a commit cycle does."""

import asyncio
import string
from collections.abc import Collection
from uuid import UUID

import pytest
from tests.streams.schedule_oracle import Event
from tests.streams.workers_in_memory import RUNNER, STORE, Process, World

from tidemill.errors import ContractError
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log, position_of
from tidemill.streams.consumer.topic_ids import TopicIdentity
from tidemill.streams.join.labels import LabelEngine
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.flow_control import FlowControl
from tidemill.streams.runtime.prepared_loop import PreparedLoop


@pytest.fixture
def process() -> Process:
    """A worker that commits every second or 20 records, and has just committed."""
    worker = Process(World(commit_rows=20))
    RUNNER.run_until_complete(worker.claim([0, 1]))
    RUNNER.run_until_complete(worker.run.commit())
    return worker


def read(process: Process, records: int) -> None:
    """Let *process* take so many decisions of different ids."""
    for number in range(records):
        process.world.produce(Event(DECISIONS, string.ascii_letters[number], 0, 0))
    RUNNER.run_until_complete(process.poll(DECISIONS, 1_000))


def is_due(process: Process, *, is_caught_up: bool = True) -> bool:
    """Return whether a commit cycle is due."""
    return process.run.is_due(lambda: is_caught_up)


def test_a_commit_cycle_is_due_a_second_after_the_last_one(process: Process) -> None:
    """Otherwise live traffic, which is always caught up, would make a file of every fetch."""
    read(process, 18)
    assert not is_due(process)
    process.world.now_s += 1.0
    assert is_due(process)


def test_the_rest_of_a_backlog_does_not_wait(process: Process) -> None:
    """No more records will come that could share its files."""
    read(process, 40)
    read(process, 6)
    assert not is_due(process, is_caught_up=False)
    assert is_due(process)
    RUNNER.run_until_complete(process.run.commit())
    read(process, 6)
    assert not is_due(process), "the backlog is over"


def test_records_that_wait_to_be_taken_are_received(process: Process) -> None:
    """A commit cycle takes them first, so they are part of it."""
    run = process.run
    received = [run.position(DECISIONS, number).received for number in (0, 9)]
    assert received == [0, None]
    read(process, 6)
    assert run.position(DECISIONS, 0).taken == 0, "it waits for more, to be taken at once"
    assert run.position(DECISIONS, 0).received == 3


def test_nothing_is_due_where_nothing_was_read(process: Process) -> None:
    """An empty commit would only make readers read again."""
    process.world.now_s += 10.0
    assert not is_due(process)


def test_a_log_waits_for_each_that_is_behind_by_more_than_the_grace() -> None:
    """More rows of it would only fill memory: windows close with the slowest of all logs."""
    worker = Process(World(stream="orders"))
    RUNNER.run_until_complete(worker.claim([0, 1]))
    assert worker.run.behind(DECISIONS, 0) == []
    worker.world.produce(Event(DECISIONS, "b", 9, 9))
    worker.world.produce(Event(FEEDBACK, "b", 8, 9, "u", "click"))
    RUNNER.run_until_complete(worker.round(10))
    assert worker.run.behind(DECISIONS, 0) == [Log("feedback.orders")]
    worker.world.produce(Event(FEEDBACK, "b", 6, 9, "u", "buy"))
    RUNNER.run_until_complete(worker.round(10))
    assert worker.run.behind(DECISIONS, 0) == [Log("feedback.orders")]
    assert worker.run.behind(FEEDBACK, 0) == []
    assert worker.run.behind(Log("feedback.orders"), 0) == []
    assert worker.run.behind(DECISIONS, 1) == [], "nothing was read there"


def test_a_new_version_reads_a_new_stream_from_its_first_record() -> None:
    """Purchases produced before the version was published count like any others."""
    world = World()
    for name, at in (("b", 0), ("d", 30)):
        world.produce(Event(DECISIONS, name, at, at))
        world.produce(Event(FEEDBACK, name, at + 1, at + 1, "u", "click", 1.0))
    old = Process(world)
    RUNNER.run_until_complete(old.claim([0]))
    RUNNER.run_until_complete(old.round(10))
    assert world.rows("examples", ("state",))[0] == [("labeled",)]
    later = World(stream="orders", lake=world.lake)
    later.logs |= world.logs
    for tp, events in world.events.items():
        later.events[tp] += events
    new = Process(later)
    for at, name in ((2, "b"), (31, "d")):
        later.produce(Event(FEEDBACK, name, at, at, "v", "buy", 2.0))
    RUNNER.run_until_complete(new.claim([0]))
    assert [new.run.position(log, 0).taken for log in new.run.loop.logs] == [2, 2, 0]
    RUNNER.run_until_complete(new.round(10))
    new.end_logs(100)
    RUNNER.run_until_complete(new.run.commit())
    rows = later.rows("examples", ("state", "label", "feedback_offsets"))[0]
    positions = [[0], [1, position_of(Log("feedback.orders"), 1)]]
    assert rows == [("labeled", 1001.0, positions[0]), ("labeled", 1003.0, positions[1])]


def test_a_new_stream_without_a_record_does_not_stop_corrections() -> None:
    """Windows that an earlier version closed are revised before the new stream has a record."""
    world = World(corrections=60)
    for at, name in ((0, "b"), (20, "d")):
        world.produce(Event(DECISIONS, name, at, at))
        world.produce(Event(FEEDBACK, name, at + 1, at + 1, "u", "click", 1.0))
    old = Process(world)
    RUNNER.run_until_complete(old.claim([0]))
    RUNNER.run_until_complete(old.round(10))
    later = World(corrections=60, stream="orders", lake=world.lake)
    later.logs |= world.logs
    for tp, events in world.events.items():
        later.events[tp] += events
    new = Process(later)
    RUNNER.run_until_complete(new.claim([0]))
    later.produce(Event(FEEDBACK, "b", 2, 22, "v", "click", 1.0))
    RUNNER.run_until_complete(new.round(10))
    rows = later.rows("examples", ("revision", "feedback_offsets"))[0]
    assert rows == [(0, [0]), (1, [0, 2])]


HERE, ANEW = (TopicIdentity(topic="t", id=UUID(int=number), cluster="c") for number in (7, 8))


def test_a_lake_without_ids_adopts_the_first_and_says_so_once(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells what was believed, and of which partitions; the id is in the next commit."""
    read(process, 6)
    RUNNER.run_until_complete(process.run.commit())
    for _ in range(2):
        process.run.identify(DECISIONS, HERE)
    (record,) = caplog.records
    assert "has read partitions [0, 1] of t without ids; adopting topic id" in record.getMessage()
    process.run.identify(FEEDBACK, HERE)
    assert len(caplog.records) == 1, "of this log nothing was read yet"
    read(process, 6)
    RUNNER.run_until_complete(process.run.commit())
    again = Process(process.world)
    RUNNER.run_until_complete(again.claim([0, 1]))
    again.run.identify(DECISIONS, HERE)
    assert again.run.refusal is None
    again.run.identify(DECISIONS, ANEW)
    assert "was deleted and made anew" in str(again.run.refusal)


@pytest.mark.parametrize("answer", ["made anew", "no answer", "the same topic"])
def test_rows_are_committed_only_if_their_topic_is_known_to_be_the_same(
    process: Process, answer: str
) -> None:
    """The ids are asked after the rows were fetched; what is unknown waits for the next cycle."""
    process.run.identify(DECISIONS, HERE)

    async def verify() -> bool:
        if answer == "made anew":
            process.run.refuse(ContractError("another topic", hint="replay it"))
        return answer == "the same topic"

    process.run.verify = verify
    read(process, 6)
    RUNNER.run_until_complete(process.run.commit())
    committed = [process.run.position(DECISIONS, number).committed or 0 for number in (0, 1)]
    assert sum(committed) == (6 if answer == "the same topic" else 0)
    if answer == "no answer":
        process.run.verify = None
        RUNNER.run_until_complete(process.run.commit())
        assert process.run.position(DECISIONS, 0).committed == 3, "nothing was lost by waiting"


class SilentBroker:
    """A broker that answers no question for the ids of topics."""

    session = 0

    def __init__(self) -> None:
        self.asked = 0

    async def identities(self, _topics: Collection[str]) -> None:
        """Count the question."""
        self.asked += 1


def test_a_broker_that_does_not_answer_is_asked_once_for_all_loops() -> None:
    """Each question waits for seconds, and a stop commits every loop before it ends."""
    workers = [Process(World()) for _ in range(3)]
    broker = SilentBroker()
    flow = FlowControl([worker.run for worker in workers], StreamMetrics())
    flow.attach(broker)  # type: ignore[arg-type]  # nothing else of it is asked
    for worker in workers:
        RUNNER.run_until_complete(worker.claim([0, 1]))
        read(worker, 6)
        RUNNER.run_until_complete(worker.run.commit())
        assert not worker.run.position(DECISIONS, 0).committed
    assert broker.asked == 1


class AnsweringBroker:
    """A broker that tells the ids of all topics, once `answer` is set."""

    session = 0

    def __init__(self) -> None:
        self.questions: list[set[str]] = []
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def identities(self, topics: Collection[str]) -> dict[str, None]:
        """Record the question; there are no ids, as of an old broker."""
        self.questions.append(set(topics))
        self.asked.set()
        await self.answer.wait()
        return dict.fromkeys(topics)


def test_loops_that_commit_together_share_one_question_for_their_topics() -> None:
    """An answer waits behind a fetch: a hundred loops one by one would wait ten seconds."""
    workers = [Process(World()) for _ in range(3)]
    broker = AnsweringBroker()

    async def asked() -> list[bool]:
        flow = FlowControl([worker.run for worker in workers], StreamMetrics())
        flow.attach(broker)  # type: ignore[arg-type]  # nothing else of it is asked
        first = [asyncio.ensure_future(flow.verify(worker.run)) for worker in workers[:2]]
        await broker.asked.wait()
        later = asyncio.ensure_future(flow.verify(workers[2].run))
        await asyncio.sleep(0)
        broker.answer.set()
        return list(await asyncio.gather(*first, later))

    assert RUNNER.run_until_complete(asked()) == [True, True, True]
    assert len(broker.questions) == 2, "the answer to a question says nothing about what came later"


def test_prepared_loops_use_the_engine_they_are_given() -> None:
    """The worker gives one to all of its loops; a DuckDB for each is what fleets died of."""
    engine = LabelEngine()
    prepared = [PreparedLoop.of(World().loop, STORE, engine) for _ in range(2)]
    assert [each.labels._engine for each in prepared] == [engine, engine]
