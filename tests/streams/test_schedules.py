"""Ten thousand schedules: polls, commits, crashes, rebalances, zombies and clocks in any order.

Each guard is also switched off, and then a schedule has to be found that shows it.
"""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.streams.schedules import Workers, run
from tests.streams.test_windows_properties import (
    ForgetsIdleAdvances,
    ForgetsStreamTimeAtARestart,
    ForgetsWhatIsJoined,
    TakesEveryCopyOfADecision,
    TakesEveryCopyOfFeedback,
)
from tests.streams.workers_in_memory import World

from tidemill.features.memorytables import MemoryTable
from tidemill.schemas.blocks import EventDecoder, _Plan, _Refusal
from tidemill.schemas.columns import Records
from tidemill.schemas.cursors import Cursors, Source, _record
from tidemill.schemas.wire import Schema
from tidemill.streams.commits import Holding, Table, UnfencedTable
from tidemill.streams.looprun import LoopRun
from tidemill.streams.matching import Bools
from tidemill.streams.partitions import Cut
from tidemill.streams.progress import Resume
from tidemill.streams.rounds import Rounds
from tidemill.streams.rules import Int64s
from tidemill.streams.state import OpenState
from tidemill.streams.windows import PartitionJoin

ROOT = Path(__file__).parents[2]
SCHEDULES = 10_000 if os.environ.get("CI") else 1_000  # a laptop looks at a tenth each time
PROCESSES = 2
MET = {  # what ten thousand must have come upon, and how often at least
    "crashed": 1_000,  # within a commit or a claim, before or after any of its steps
    "killed": 1_000,  # between two steps of its own
    "refused": 500,
    "fenced": 500,
    "rebalanced": 1_000,
    "steal in the middle": 500,
    "labeled": 3_000,
    "no_feedback": 3_000,
    "censored": 1_000,
    "late": 3_000,
    "duplicate": 3_000,
}


def test_ten_thousand_schedules_leave_the_lake_as_the_logs_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The result is a function of the logs, whatever happens to those who compute it.

    TIDEMILL_SEED repeats a run; without it every run looks elsewhere.
    """
    first = int(os.environ.get("TIDEMILL_SEED") or random.randrange(10**9))
    share = SCHEDULES // PROCESSES
    command = [sys.executable, "-m", "tests.streams.schedules", "--schedules", str(share)]
    running = [
        subprocess.Popen(
            [*command, "--seed", str(first + number * share)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, "\n".join(told)
    ran: Counter[str] = sum(
        (Counter(json.loads(each.splitlines()[-1])) for each in told), Counter()
    )
    seeds = re.findall(r"seed (\d+)", "".join(told))
    with capsys.disabled():
        print(f"\n{ran['schedules']} schedules of seeds {' '.join(seeds)}: {dict(ran)}")
    assert ran["schedules"] >= SCHEDULES
    assert not {
        what: ran[what] for what, least in MET.items() if ran[what] < least * SCHEDULES / 10_000
    }


@dataclass
class NoFence(World):
    """Commits compare nothing with what the table has."""

    opened: Callable[[MemoryTable], Table] = UnfencedTable


class CarelessDecoder(EventDecoder):
    """Takes every payload for sound, wherever the reading of it ended."""

    def _plan(self, writer: Schema, prefix: bytes) -> _Plan | _Refusal:
        plan = super()._plan(writer, prefix)
        if isinstance(plan, _Plan):
            plan.reader._walk = partial(_walk, _record(writer))
        return plan


def _walk(
    read: Callable[[Cursors], Records], data: bytes, starts: Int64s, ends: Int64s
) -> tuple[Records, Bools]:
    return read(Cursors(Source(data), starts, ends)), np.ones(len(starts), dtype=np.bool_)


@dataclass
class NoGuard(World):
    """A payload that is cut short is read on into the next one."""

    decoder: type[EventDecoder] = CarelessDecoder


class LettersLast(Rounds):
    """Writes dead letters once everything else is safe."""

    def write(self, holdings: Mapping[int, Holding], cuts: Collection[Cut]) -> int | None:
        """Commit first, write then."""
        version = super().write(holdings, [replace(cut, letters=[]) for cut in cuts])
        self._letters.write(letter for cut in cuts for letter in cut.letters)
        return version


class RunWithLettersLast(LoopRun):
    """A crash in between loses letters."""

    def __init__(self, *args: Any, **more: Any) -> None:  # noqa: ANN401 (those of LoopRun)
        super().__init__(*args, **more)
        rounds = self._rounds
        self._rounds = LettersLast(
            self.loop.loop, rounds._tables, rounds._letters, rounds._metrics, -1.0
        )


def with_run(run_class: type[LoopRun]) -> type[World]:
    """Return worlds whose workers are of *run_class*."""

    @dataclass
    class Changed(World):
        made: type[LoopRun] = run_class

    return Changed


def with_join(join: type[PartitionJoin]) -> type[World]:
    """Return worlds whose partitions are joined by *join*."""

    class Run(LoopRun):
        def _join(self, number: int, resume: Resume, state: OpenState) -> PartitionJoin:
            return join(self.rules, resume, labels=self._labels, state=state)

    return with_run(Run)


BROKEN: dict[str, type[World]] = {
    "no fence": NoFence,
    "no guard": NoGuard,
    "letters last": with_run(RunWithLettersLast),
    "copies of decisions count": with_join(TakesEveryCopyOfADecision),
    "copies of feedback count": with_join(TakesEveryCopyOfFeedback),
    "joined feedback forgotten": with_join(ForgetsWhatIsJoined),
    "stream time forgotten": with_join(ForgetsStreamTimeAtARestart),
    "idle advances forgotten": with_join(ForgetsIdleAdvances),
}


@pytest.mark.parametrize("name", BROKEN)
def test_without_a_guard_some_schedule_goes_red(name: str) -> None:
    """Ten thousand green schedules prove nothing if damage would be green as well."""

    class Unguarded(Workers):
        world = BROKEN[name]
        ran: ClassVar[Counter[str]] = Counter()

    with pytest.raises(AssertionError):
        run(1_000, 1, Unguarded, shrink=False)
    print(Unguarded.ran["schedules"], "schedules were sound")
