"""The journal forgets what Kafka has, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.kafka import KafkaConfig
from tidemill.serving.decision.event_log import Event
from tidemill.serving.journal import SEGMENT_BYTES, Journal, JournalConfig, left_journals
from tidemill.serving.journaled_writer import JournaledWriter
from tidemill.serving.kafka_log import KafkaEventLog

LARGE = b"x" * (SEGMENT_BYTES // 4)  # three fit into a segment


class Buffer:
    """A producer whose broker answers when the test says so."""

    def __init__(self) -> None:
        self.failed = 0
        self.room = 1_000
        self.sent: list[bytes | None] = []
        self.waiting = 0

    def write(self, topic: str, key: bytes | None, value: bytes | None) -> bool:
        """Take one event if there is room."""
        if self.waiting >= self.room:
            return False
        self.waiting += 1
        self.sent.append(key)
        return True


class Setup:
    """A writer over two buffers; its own thread does not run, so the test calls `keep`."""

    def __init__(self, folder: Path) -> None:
        self.config = JournalConfig(folder=folder, max_bytes=5 * SEGMENT_BYTES)
        self.journal = Journal(self.config, "b")
        self.first, self.second = Buffer(), Buffer()
        self.writer = JournaledWriter(self.journal, (self.first, self.second))
        self.writer._closed.set()
        self.writer._thread.join()

    def write(self, *names: str) -> list[bool]:
        """Write large events of these names."""
        return [self.writer.write("t", name.encode(), LARGE) for name in names]

    def left(self) -> list[bytes | None]:
        """Return the keys that the next start would send, as if this process were killed now."""
        self.journal._lock_file.close()
        (left,) = left_journals(self.config)
        keys = [event.key for event in left.events()]
        left.close()
        return keys


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """A writer over two buffers."""
    made = Setup(tmp_path)
    yield made
    made.writer.close()


def test_an_event_is_left_until_its_broker_has_it(setup: Setup) -> None:
    """The buffer of the client dies with the process."""
    setup.write("a", "b")
    setup.writer.keep()
    assert setup.left() == [b"a", b"b"]
    setup.first.waiting = 0
    setup.writer.keep()
    assert setup.left() == []
    setup.write("c")
    assert setup.left() == [b"c"]


def test_a_full_segment_waits_for_its_own_producer(setup: Setup) -> None:
    """What the other producer sends says nothing about it."""
    setup.write("a", "b", "c", "d")  # the fourth begins a segment, and the other producer
    assert (setup.first.sent, setup.second.sent) == ([b"a", b"b", b"c"], [b"d"])
    setup.second.waiting = 0
    setup.writer.keep()
    assert setup.left() == [b"a", b"b", b"c"]
    setup.first.waiting = 0
    setup.writer.keep()
    assert setup.left() == []
    assert len(setup.journal.segments) == 1


def test_a_busy_worker_goes_on_with_one_producer(setup: Setup) -> None:
    """While the other one cannot send, its turn does not come."""
    setup.write(*"abcdefg")
    assert setup.first.sent == [b"a", b"b", b"c"]
    assert setup.second.sent == [b"d", b"e", b"f", b"g"]
    setup.second.waiting = 0
    setup.writer.keep()
    assert setup.left() == [b"a", b"b", b"c"]


def test_what_the_buffer_had_no_room_for_is_sent_from_the_journal(setup: Setup) -> None:
    """A broker that was away for longer than the buffer lasts costs nothing."""
    setup.first.room = 1
    assert setup.write("a", "b", "c") == [True, True, True]
    assert setup.first.sent == [b"a"]
    assert setup.writer.waiting == 2
    setup.writer.keep()
    assert setup.first.sent == [b"a"]
    for expected in (b"b", b"c"):
        setup.first.waiting = 0
        setup.writer.keep()
        assert setup.first.sent[-1] == expected
        assert setup.left()[-1] == b"c"
    setup.first.waiting = 0
    setup.writer.keep()
    assert setup.first.sent == [b"a", b"b", b"c"]
    assert setup.left() == []


def test_without_room_in_buffer_and_journal_an_event_is_dropped(setup: Setup) -> None:
    """And counted; nothing waits."""
    setup.first.room = setup.second.room = 1
    names = [f"{number}" for number in range(20)]
    taken = setup.write(*names)
    assert taken == [True] * 15 + [False] * 5
    assert setup.writer.missed == 5
    assert setup.writer.trouble is not None


def test_what_kafka_refused_for_good_is_left_to_the_next_start(setup: Setup) -> None:
    """A topic that somebody removed may be there again by then."""
    setup.write("a", "b", "c", "d")
    setup.first.failed = 3
    setup.first.waiting = setup.second.waiting = 0
    setup.writer.keep()
    assert setup.left() == [b"a", b"b", b"c"]


def test_a_record_is_found_where_it_was_appended(setup: Setup) -> None:
    """Events are sent from there later."""
    segment = setup.journal.segments[0]
    places = [segment.append("t", name, name * 3) for name in (b"a", b"bb")]
    assert [segment.event_at(place) for place in places] == [
        Event("t", b"a", b"aaa"),
        Event("t", b"bb", b"bbbbbb"),
    ]


@pytest.mark.parametrize(
    ("has_journal", "told"),
    [(True, "stay in the journal: the next start sends them"), (False, "are lost")],
)
def test_the_log_says_whether_unsent_events_are_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, has_journal: bool, told: str
) -> None:
    """An operator looked for losses in the logs of a worker whose journal had everything."""
    journal = JournalConfig(folder=tmp_path) if has_journal else None
    log = KafkaEventLog(KafkaConfig("127.0.0.1:1"), journal=journal)
    assert log.write("t", b"a", b"1")
    log.close(timeout_s=0.0)
    lines = [each.getMessage() for each in caplog.records]
    assert f"1 records were never acknowledged and {told}" in lines
    left = [
        event for each in left_journals(JournalConfig(folder=tmp_path)) for event in each.events()
    ]
    assert left == ([Event("t", b"a", b"1")] if has_journal else [])
