"""Claims and commits on real Delta tables, with two owners at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.streams.rig import new_loop
from tests.streams.unfenced import UnfencedTable

from tidemill.errors import FencedError, LakeError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import TABLES
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.streams.commit.leases import Lease, claim
from tidemill.streams.commit.progress_commit import ProgressUpdate, commit, raw_numbers
from tidemill.streams.commit.progress_table import ProgressTable, patient

THREE: tuple[Log, ...] = (DECISIONS, FEEDBACK, Log("feedback.orders"))


@pytest.fixture
def tables(tmp_path: Path) -> Callable[[], dict[str, ProgressTable]]:
    """Open the tables of a new loop, as each worker does for itself."""
    loop = new_loop()
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(loop)
    return lambda: {name: lake.table(loop.loop, name) for name in TABLES}


def test_the_last_to_claim_a_partition_owns_it(
    tables: Callable[[], dict[str, ProgressTable]],
) -> None:
    """A worker that lost its partition without noticing must not be able to commit."""
    mine, theirs = tables(), tables()
    first = claim(mine, [0, 1])
    commit("decisions", mine["decisions"], [ProgressUpdate(first[0], [], raw_numbers(7, None, 0))])
    second = claim(theirs, [0])
    assert second[0].numbers["decisions"]["offset"] == 7
    with pytest.raises(FencedError):
        commit(
            "decisions", mine["decisions"], [ProgressUpdate(first[0], [], raw_numbers(9, None, 0))]
        )
    commit("decisions", theirs["decisions"], [ProgressUpdate(second[0], [], raw_numbers(8, 5, 1))])
    commit("decisions", mine["decisions"], [ProgressUpdate(first[1], [], raw_numbers(3, None, 0))])
    found = claim(tables(), [0, 1])
    assert [found[number].numbers["decisions"]["offset"] for number in (0, 1)] == [8, 3]


def test_without_the_fence_the_loser_overwrites(
    tables: Callable[[], dict[str, ProgressTable]],
) -> None:
    """The negative control of the test above."""
    mine, theirs = tables(), tables()
    first = claim(mine, [0])
    second = claim(theirs, [0])
    commit(
        "decisions", theirs["decisions"], [ProgressUpdate(second[0], [], raw_numbers(8, None, 0))]
    )
    open_to_all = UnfencedTable(mine["decisions"])
    commit("decisions", open_to_all, [ProgressUpdate(first[0], [], raw_numbers(2, None, 0))])
    assert claim(tables(), [0])[0].numbers["decisions"]["offset"] == 2


def test_the_numbers_of_each_log_are_compared_and_swapped(
    tables: Callable[[], dict[str, ProgressTable]],
) -> None:
    """All feedback is in one table: the offset of one log must not be taken for another's."""
    mine = tables()["feedback"]
    lease = claim(tables(), [0], logs=THREE)[0]
    behind = Lease(0, THREE, {name: dict(known) for name, known in lease.numbers.items()})
    new = {"offset": 5, "offset@orders": 7, "time@orders": 3}
    commit("feedback", mine, [ProgressUpdate(lease, [], new)])
    with pytest.raises(FencedError):
        commit("feedback", mine, [ProgressUpdate(behind, [], {"offset@orders": 9})])
    found = claim(tables(), [0], logs=THREE)[0]
    assert [found.offset(log) for log in THREE] == [0, 5, 7]
    assert found.of(Log("feedback.orders"), "time") == 3
    assert found.of(FEEDBACK, "time") is None


def test_a_version_with_a_new_log_begins_it_at_its_start(
    tables: Callable[[], dict[str, ProgressTable]],
) -> None:
    """The offsets of other logs stay, and each log records the offset where the version begins."""
    mine = tables()
    lease = claim(mine, [0], 1)[0]
    commit("feedback", mine["feedback"], [ProgressUpdate(lease, [], raw_numbers(5, 2, 0))])
    lease = claim(mine, [0], 2, logs=THREE)[0]
    assert [lease.offset(log) for log in THREE] == [0, 5, 0]
    commit(
        "feedback", mine["feedback"], [ProgressUpdate(lease, [], {"offset": 6, "offset@orders": 8})]
    )
    again = claim(mine, [0], 2, logs=THREE)[0]
    assert [again.offset(log) for log in THREE] == [0, 6, 8]
    names = ["begin/1/0", "begin/2/0", "begin/2@orders/0", "begin/1@orders/0"]
    assert list(mine["feedback"].progress(names).values()) == [0, 5, 0, None]


def test_retries_end_and_are_not_for_fenced_commits() -> None:
    """A full disk may be emptied in time; another owner stays."""
    tries = []

    def refuse() -> None:
        tries.append(1)
        raise LakeError("no space", hint="make some")

    with pytest.raises(LakeError):
        patient(refuse, patience_s=0.5)
    assert len(tries) > 1

    def fence() -> None:
        tries.append(1)
        raise FencedError("another owner", hint="stop")

    before = len(tries)
    with pytest.raises(FencedError):
        patient(fence)
    assert len(tries) == before + 1
