"""The journal: what a worker had answered is there after `kill -9`, once, and only while needed."""

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.errors import ConfigError
from tidemill.serving.decision.event_log import Event
from tidemill.serving.journal import (
    SEGMENT_BYTES,
    Journal,
    JournalConfig,
    left_journals,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from tidemill.serving.journal import Journal, JournalConfig
journal = Journal(JournalConfig(folder=Path(sys.argv[1])), "broker:9092")
segment = journal.segments[-1]
for number in range(int(sys.argv[2])):
    if not segment.append("shop.decisions", b"d-%d" % number, b"x" * number):
        segment = journal.next_segment()
        assert segment.append("shop.decisions", b"d-%d" % number, b"x" * number)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path, count: int) -> None:
    """Let a process append *count* events and be killed."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(count)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_all_events_are_there_after_kill_9(tmp_path: Path) -> None:
    """An answer promises them; several segments are read in the order they were written."""
    killed(tmp_path, 4_000)  # eight million bytes
    (left,) = left_journals(JournalConfig(folder=tmp_path))
    expected = [Event("shop.decisions", b"d-%d" % n, b"x" * n) for n in range(4_000)]
    assert list(left.events()) == expected
    assert left.bootstrap == "broker:9092"
    assert left_journals(JournalConfig(folder=tmp_path)) == []  # another start has it
    left.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_kafka_has_is_not_sent_again(tmp_path: Path) -> None:
    """Copies would end as duplicates, and make an operator ask where they come from."""
    journal = Journal(JournalConfig(folder=tmp_path), "b")
    segment = journal.segments[-1]
    segment.append("t", b"a", b"1")
    segment.note_delivered(segment.end)
    segment.append("t", b"b", b"2")
    journal.close(is_delivered=False)
    (left,) = left_journals(JournalConfig(folder=tmp_path))
    assert list(left.events()) == [Event("t", b"b", b"2")]
    left.close()
    (again,) = left_journals(JournalConfig(folder=tmp_path))
    again.close()


def test_half_a_record_is_the_end_of_its_segment(tmp_path: Path) -> None:
    """A process may be killed between two bytes."""
    journal = Journal(JournalConfig(folder=tmp_path), "b")
    segment = journal.segments[-1]
    segment.append("t", b"a", b"1")
    end = segment.end
    segment.append("t", b"b", b"2" * 100)
    journal.close(is_delivered=False)
    for length in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\0"):
        with segment.path.open("r+b") as file:
            file.seek(end)
            file.write(length)
        (left,) = left_journals(JournalConfig(folder=tmp_path))
        assert list(left.events()) == [Event("t", b"a", b"1")]
        left.close()
    segment.path.write_bytes(b"")
    (left,) = left_journals(JournalConfig(folder=tmp_path))
    assert list(left.events()) == []
    left.close()


def test_the_journal_of_a_process_that_runs_is_left_alone(tmp_path: Path) -> None:
    """Two workers of one machine share the folder."""
    config = JournalConfig(folder=tmp_path)
    journal = Journal(config, "b")
    assert left_journals(config) == []
    journal.close(is_delivered=True)
    assert list(tmp_path.iterdir()) == []


def test_a_full_journal_says_so_and_has_room_again(tmp_path: Path) -> None:
    """A decision goes on; the operator learns that it may not survive."""
    journal = Journal(JournalConfig(folder=tmp_path, max_bytes=2 * SEGMENT_BYTES), "b")
    assert journal.next_segment() is not None
    assert journal.next_segment() is None
    assert journal.trouble is not None
    assert "full" in journal.trouble
    journal.remove(journal.segments[0])
    assert journal.trouble is None
    assert journal.next_segment() is not None
    assert journal.segments[0].append("t", b"k", b"x" * SEGMENT_BYTES) == 0
    journal.close(is_delivered=True)


def test_its_files_are_private(tmp_path: Path) -> None:
    """They hold the features of customers."""
    folder = tmp_path / "journal"
    journal = Journal(JournalConfig(folder=folder), "b")
    for path in (folder, journal.folder, journal.segments[0].path):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    journal.close(is_delivered=True)


def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    """Not by the first decision, and not by a signal."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="journal cannot be written") as caught:
        Journal(JournalConfig(folder=tmp_path / "file" / "journal"), "b")
    assert "TIDEMILL_JOURNAL" in caught.value.hint


def test_size_folder_and_off_are_settings(tmp_path: Path) -> None:
    """As the guide has them."""
    config = JournalConfig.from_env({"XDG_STATE_HOME": str(tmp_path)})
    assert config == JournalConfig(folder=tmp_path / "tidemill" / "journal", is_required=False)
    config = JournalConfig.from_env({"TIDEMILL_JOURNAL": "/j", "TIDEMILL_JOURNAL_MB": "8"})
    assert config == JournalConfig(folder=Path("/j"), max_bytes=8 * 2**20)
    assert JournalConfig.from_env({"TIDEMILL_JOURNAL": "off"}) is None
    for wrong in ("7", "x", "-8"):
        with pytest.raises(ConfigError, match="TIDEMILL_JOURNAL_MB"):
            JournalConfig.from_env({"TIDEMILL_JOURNAL_MB": wrong})
