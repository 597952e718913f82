"""Ids are UUIDs that nobody makes twice."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor

from tidemill.serving.decision.ids import new_id


def test_an_id_is_a_uuid_of_version_7() -> None:
    """Databases and people know what to do with one."""
    for _ in range(200):
        made = uuid.UUID(new_id())
        assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_threads_never_make_the_same_id() -> None:
    """A second decision of the same id counts as a repetition and is never learned from."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: [new_id() for _ in range(5_000)], range(16)))
    assert len({name for names in made for name in names}) == 80_000


def test_a_forked_process_makes_ids_of_its_own() -> None:
    """Web servers fork after they have loaded the application."""
    new_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, " ".join(new_id()[12:] for _ in range(50)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = set(os.read(read, 65_536).decode().split())
    os.close(read)
    os.close(write)
    assert len(theirs) == 50
    assert theirs.isdisjoint(new_id()[12:] for _ in range(50))
