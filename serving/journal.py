"""A journal of events that Kafka may not have yet: memory-mapped files that survive `kill -9`.

Each process appends to segments in a folder of its own, which it locks. What a process has written
is in the page cache of the kernel when it is killed, so nothing is flushed to the disk: a journal
does not survive the loss of the machine.

A segment begins with `_MAGIC` and the offset up to which Kafka has its events. A record is its
length in 4 bytes; topic and key, each after its length in 2 bytes; the value. The length of a
record is written last, so half a record is the end of its segment.
"""

import fcntl
import itertools
import mmap
import os
import shutil
import struct
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from tidemill.errors import ConfigError
from tidemill.private_folder import make_private
from tidemill.serving.decision.event_log import Event

JOURNAL = "TIDEMILL_JOURNAL"
JOURNAL_MB = "TIDEMILL_JOURNAL_MB"
SEGMENT_BYTES = 4 * 2**20  # some 10,000 decisions: less than a second of a busy worker

_MAGIC = b"tidemill.journal.1\n"
_BROKERS = "brokers"  # the file that names the brokers of a journal
_DELIVERED_AT = 32  # where a segment has the offset up to which Kafka has its events
_FIRST = 64
_LAST = SEGMENT_BYTES - 4  # where the length of a next record, zero, still has room
_length = struct.Struct("<I")
_pack_length = _length.pack_into
_offset = struct.Struct("<Q")
_size = struct.Struct("<H")
_SIZES = [_size.pack(size) for size in range(4_096)]  # of topics and keys: ids have 200 characters
_heads: dict[str, bytes] = {}
"""Topics as records begin with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig:
    """Where the journal of a worker is, and how large it may become."""

    folder: Path
    max_bytes: int = 256 * 2**20
    """A minute of 10,000 decisions a second; beyond it decisions go on without the journal."""
    is_required: bool = True
    """Whether a worker that cannot write there must not start."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        """Read TIDEMILL_JOURNAL, a folder or ``off``, and TIDEMILL_JOURNAL_MB.

        Unset, the folder is ``tidemill/journal`` in XDG_STATE_HOME or ``~/.local/state``; a worker
        that cannot write there goes on without a journal, and says so.

        Raises:
            ConfigError: the size is no whole number above 8, two segments.
        """
        named = env.get(JOURNAL, "")
        if named.lower() == "off":
            return None
        state = Path(env.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        size = env.get(JOURNAL_MB) or "256"
        if not size.isdecimal() or int(size) < 8:
            raise ConfigError(
                f"{JOURNAL_MB} is {size!r}, no whole number from 8 on",
                hint=f"set it to megabytes, or {JOURNAL}=off for no journal",
            )
        folder = Path(named).expanduser() if named else state / "tidemill" / "journal"
        return cls(folder=folder, max_bytes=int(size) * 2**20, is_required=bool(named))


class JournalSegment:
    """One file of a journal, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Make the new file *path* with room on the disk for all of it."""
        self.path = path
        self.end = _FIRST
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(handle, 0, SEGMENT_BYTES)  # a full disk is told here, not by SIGBUS
            self._memory = mmap.mmap(handle, SEGMENT_BYTES)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(handle)
        self._memory[: len(_MAGIC)] = _MAGIC
        self.note_delivered(_FIRST)

    def append(self, topic: str, key: bytes | None, value: bytes | None) -> int:
        """Append one event; return where it is, or 0 if there is no room."""
        if key is None or value is None:
            raise ValueError(f"an event of {topic} has no key or no value")
        record = b"".join((_heads.get(topic) or _head(topic), _SIZES[len(key)], key, value))
        start = self.end
        first = start + 4
        end = first + len(record)
        if end > _LAST:
            return 0
        memory = self._memory
        memory[first:end] = record
        _pack_length(memory, start, end - first)
        self.end = end
        return start

    def note_delivered(self, offset: int) -> None:
        """Note that Kafka has all events before *offset*."""
        _offset.pack_into(self._memory, _DELIVERED_AT, offset)

    def event_at(self, start: int) -> Event:
        """Return the event of the record that starts at *start*."""
        (size,) = _length.unpack_from(self._memory, start)
        return _event(self._memory[start + 4 : start + 4 + size])

    def close(self) -> None:
        """Leave the file to others."""
        self._memory.close()

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)


class Journal:
    """The segments of this process, within a limit.

    Args:
        config: the folder and the size.
        bootstrap: the brokers that the events are for.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, config: JournalConfig, bootstrap: str) -> None:
        self.trouble: str | None = None
        self.segments: list[JournalSegment] = []
        self._most = max(2, config.max_bytes // SEGMENT_BYTES)
        self._numbers = itertools.count()
        self._spare: JournalSegment | None = None
        try:
            self.folder, self._lock_file = _new_folder(config.folder)
            (self.folder / _BROKERS).write_text(bootstrap)
            self.segments.append(self._new_segment())
        except OSError as error:
            raise ConfigError(
                f"the journal cannot be written below {config.folder}: {error.strerror}",
                hint=f"set {JOURNAL} to a folder of this user, or to off",
            ) from error

    def next_segment(self) -> JournalSegment | None:
        """Return a new segment; None if the journal is full or the disk is."""
        if len(self.segments) >= self._most:
            self.trouble = "the journal is full: newer events may not survive the end of the worker"
            return None
        segment, self._spare = self._spare, None
        try:
            segment = segment or self._new_segment()
        except OSError as error:
            self.trouble = f"the journal cannot be written: {error.strerror}"
            return None
        self.segments.append(segment)
        return segment

    def make_spare(self) -> None:
        """Make the next segment beforehand, so that no decision has to wait for it."""
        if self._spare is None and len(self.segments) < self._most:
            try:
                self._spare = self._new_segment()
            except OSError as error:
                self.trouble = f"the journal cannot be written: {error.strerror}"

    def remove(self, segment: JournalSegment) -> None:
        """Delete *segment*, whose events Kafka has; there is room again."""
        self.segments.remove(segment)
        segment.remove()
        self.trouble = None

    def close(self, *, is_delivered: bool) -> None:
        """Let the journal go: delete it if Kafka has all of it, else leave it to the next start."""
        for segment in self.segments:
            segment.close()
        if self._spare is not None:
            self._spare.remove()
        if is_delivered:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock_file.close()

    def _new_segment(self) -> JournalSegment:
        return JournalSegment(self.folder / f"{next(self._numbers):08}.segment")


def _head(topic: str) -> bytes:
    name = topic.encode()
    head = _heads[topic] = _SIZES[len(name)] + name
    return head


def _new_folder(parent: Path) -> tuple[Path, BinaryIO]:
    """Make a folder with a lock that this process holds until it ends."""
    make_private(parent)
    folder = parent / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o700)
    return folder, _lock(folder)


def _lock(folder: Path) -> BinaryIO:
    """Return the open lock file of *folder*; OSError if another process has the lock."""
    file = open(folder / "lock", "ab")  # noqa: SIM115  # it stays open as long as the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


class LeftJournal:
    """What a process that has ended has left, locked by this one."""

    def __init__(self, folder: Path, lock_file: BinaryIO) -> None:
        self.folder = folder
        self._lock_file = lock_file
        try:
            self.bootstrap = (folder / _BROKERS).read_text()
        except (OSError, UnicodeDecodeError):
            self.bootstrap = ""  # killed before it had any event

    def events(self) -> Iterator[Event]:
        """Yield the events that Kafka may not have, in the order of their decisions."""
        for path in sorted(self.folder.glob("*.segment")):
            yield from _events(path.read_bytes())

    def remove(self) -> None:
        """Delete it: Kafka has all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock_file.close()

    def close(self) -> None:
        """Leave it to another start."""
        self._lock_file.close()


def left_journals(config: JournalConfig) -> list[LeftJournal]:
    """Return what ended processes have left below the folder of *config*."""
    found = []
    for folder in sorted(config.folder.glob("*-*")):
        try:
            found.append(LeftJournal(folder, _lock(folder)))
        except OSError:
            continue  # its process runs, or another one delivers it
    return found


def _events(data: bytes) -> Iterator[Event]:
    if not data.startswith(_MAGIC) or len(data) < _FIRST:
        return
    (start,) = _offset.unpack_from(data, _DELIVERED_AT)
    while _FIRST <= start <= len(data) - 8:
        (size,) = _length.unpack_from(data, start)
        if not 4 <= size <= len(data) - start - 4:
            return
        try:
            yield _event(data[start + 4 : start + 4 + size])
        except (UnicodeDecodeError, struct.error):
            return
        start += 4 + size


def _event(record: bytes) -> Event:
    (size,) = _size.unpack_from(record)
    topic, rest = record[2 : 2 + size], record[2 + size :]
    (size,) = _size.unpack_from(rest)
    return Event(topic.decode(), rest[2 : 2 + size], rest[2 + size :])
