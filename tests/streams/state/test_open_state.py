"""Open windows larger than memory: the result does not depend on how much of them was spilled."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.deep import deep
from tests.streams.join_logs import (
    SECOND,
    Shell,
    as_bytes,
    assert_agrees,
    assert_conserved,
    item_rules,
    play,
    random_logs,
    rules,
)
from tests.streams.tight import TightShell

from tidemill.errors import LakeError
from tidemill.streams.state.spill_files import SpillFiles


@deep(150)
@given(
    seed=st.integers(0, 2**32),
    budget=st.sampled_from([0, 0, 0, 3_000, 10_000, 10**9]),
    portion=st.sampled_from([1, 1, 5, 1000]),
    corrections=st.sampled_from([0, 0, 7, 100]),
    items=st.booleans(),
)
def test_the_result_does_not_depend_on_the_budget(
    seed: int, budget: int, portion: int, corrections: int, items: bool
) -> None:
    """For any logs, polls, idleness and crashes the examples are the same with no memory at all."""
    logs = random_logs(random.Random(seed), 40, items=items)
    chosen = (item_rules if items else rules)(corrections=corrections * SECOND)
    ample = Shell(logs, chosen)
    tight = TightShell(logs, chosen, nbytes=budget, portion=portion)
    for shell in (ample, tight):
        play(shell, random.Random(seed + 1))
        assert_agrees(shell)
        assert_conserved(shell)
    assert as_bytes(ample) == as_bytes(tight)
    assert ample.closed[-1].counts == tight.closed[-1].counts
    assert (tight.join.open_decisions, tight.join.open_feedback) == (0, 0)


@pytest.mark.parametrize("seed", range(10))
def test_the_result_does_not_depend_on_files_either(seed: int, tmp_path: Path) -> None:
    """The same through real files: what is read back from a disk is what was spilled to it."""
    logs = random_logs(random.Random(seed), 60)
    shell = TightShell(logs, spill_files=SpillFiles(tmp_path))
    play(shell, random.Random(seed))
    assert shell.most_spilled > 0
    assert_agrees(shell)
    assert not list(tmp_path.iterdir())


class CarelessShell(TightShell):
    """Treats every row as committed."""

    def enforce(self) -> None:
        """Spill rows to a table that does not have them yet."""
        self.raw_decisions.committed = 10**9
        super().enforce()


def test_rows_spilled_before_they_are_committed_are_detected() -> None:
    """The negative control: a close never continues without the rows it asked for."""
    shell = CarelessShell(random_logs(random.Random(1), 40))
    with pytest.raises(LakeError, match="open decisions at offsets"):
        shell.finish()
