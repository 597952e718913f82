"""Schedules: anything that may happen to workers, in any order, checked after every step.

Run ``python -m tests.streams.schedules --schedules 50000 --seed 7`` to search longer than CI does.
It prints how many schedules ran, and how often each kind of event was in them.
"""

import argparse
import asyncio
import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.streams.schedule_checks import check
from tests.streams.schedule_oracle import Event
from tests.streams.workers_in_memory import (
    PARTITIONS,
    RUNNER,
    CrashError,
    Plan,
    Process,
    World,
)

from tidemill.errors import FencedError, LakeError
from tidemill.features.lake.progress_keys import UNKNOWN_ITEM
from tidemill.schemas import logs
from tidemill.schemas.logs import Log

MANY = 10**9
NEVER = 10**6  # seconds; later than anything a schedule produces
STEPS = 8
BLOCK = 1_000  # schedules of one seed: Hypothesis keeps what it has seen, and that grows
ITEMS: Sequence[tuple[tuple[str, int | None], ...]] = (
    (("p", 0), ("q", 1), ("r", None)),
    (("q", None), ("p", 2), ("r", 0), ("s", 2)),
    (("p", None),),
    (),
    (("r", 1), ("r", 0)),
)
"""What decisions may bring: some shown, several at one position, none shown, none at all."""
NAMED = (None, "p", None, "q", "r", "s", None)
DECISIONS = [
    Event(logs.DECISIONS, id, at, 0, items=ITEMS[(at + ord(id)) % len(ITEMS)])
    for at in range(-4, 7)
    for id in "abcd"
]
FEEDBACK = [
    Event(
        *(logs.FEEDBACK, id, at, 0, own, kind, float(ord(own) - 119 + at)),
        item=NAMED[(at * 5 + ord(own) + 3 * ord(id) + len(kind)) % len(NAMED)],
    )
    for at in (-20, -16, -13, -11, *range(-4, 7))  # the first four for what is long closed
    for kind in ("click", "buy")
    for own in "uvw"
    for id in "abcde"
]
LOGS: tuple[Log, ...] = (logs.DECISIONS, logs.FEEDBACK, Log("feedback.orders"))
BROKEN = [Event(log, id, 0, 0, "u", is_broken=True) for log in LOGS[:2] for id in "ab"]
BROKEN += [Event(logs.FEEDBACK, id, 0, 0, "u", "buy", is_broken=True) for id in "ab"]
ALL = [*DECISIONS * 6, *FEEDBACK, *BROKEN * 2]
EVENTS = st.integers(0, len(ALL) - 1).map(lambda number: ALL[number])
ANY = st.integers(0, 3)
PLANS = st.none() | st.tuples(
    st.sampled_from(["crash", "refuse", "steal", "poll"]), st.integers(0, 3), st.booleans()
)
CLAIM_PLANS = st.none() | st.tuples(
    st.sampled_from(["crash", "refuse"]), st.integers(0, 16), st.booleans()
)
Planned = tuple[str, int, bool] | None


class Workers(RuleBasedStateMachine):
    """Some workers on two partitions, and zombies: workers that lost theirs and do not know it."""

    ran: ClassVar[Counter[str]] = Counter()
    world: type[World] = World
    corrects = True

    @initialize(
        missing=st.sampled_from(["negative", "censored", "dropped"]),
        corrections=st.sampled_from([0, 6, 60]),
        stream=st.sampled_from([None, None, "orders"]),
        items=st.sampled_from([False, False, True]),
        rows=st.sampled_from([MANY, 6]),
        batch_records=st.sampled_from([MANY, 2]),
        size=st.integers(0, 40),
        draw=st.integers(0, 2**16),
    )
    def begin(
        self,
        missing: str,
        corrections: int,
        stream: str | None,
        items: bool,
        rows: int,
        batch_records: int,
        size: int,
        draw: int,
    ) -> None:
        """Start one worker on logs that may have records already."""
        self.now = 0
        self.w = type(self).world(
            missing=missing,
            corrections=corrections * self.corrects,
            stream=stream,
            items=items,
            commit_rows=rows,
            batch_records=batch_records,
        )
        self.live: list[Process] = []
        self.zombies: list[Process] = []
        self.checked: tuple[int, ...] = ()
        chosen = random.Random(draw)  # cheaper by far than to let Hypothesis choose each event
        for event in chosen.choices(ALL, k=size):
            self.produce_one(chosen.choice((0, 0, 0, 1, 3)), event)
        self.start([0, 1])

    @rule(by=st.integers(0, 6), events=st.lists(EVENTS, min_size=1, max_size=6))
    def produce(self, by: int, events: Sequence[Event]) -> None:
        """Append events whose times are around now: out of order, twice, late, early, ahead."""
        for event in events:
            self.produce_one(by, event)
            by = 0

    def produce_one(self, by: int, event: Event) -> None:
        """Append *event*, whose time is around now, a moment later than the last."""
        self.now += by
        self.w.produce(event._replace(at=event.at + self.now, arrived=self.now))

    @rule(who=ANY, log=st.sampled_from(LOGS), most=st.sampled_from([1, 2, 5, 50]), plan=PLANS)
    def poll(self, who: int, log: Log, most: int, plan: Planned) -> None:
        """Let a worker, or a zombie, read one log; it commits if that is much."""
        process, known = self.pick(who), self.w.rules.logs
        read = log if log in known else logs.FEEDBACK
        if not self.let(process, lambda process: process.poll(read, most), plan):
            self.end(process)

    @rule(who=ANY, most=st.sampled_from([2, 5, 50]), plan=PLANS)
    def cycle(self, who: int, most: int, plan: Planned) -> None:
        """Let a worker, or a zombie, read all logs and commit."""
        process = self.pick(who)
        if not self.let(process, lambda process: process.round(most), plan):
            self.end(process)

    @rule(who=ANY, plan=PLANS)
    def commit(self, who: int, plan: Planned) -> None:
        """Let a worker, or a zombie, commit."""
        process = self.pick(who)
        if not self.let(process, lambda process: process.run.commit(), plan):
            self.end(process)

    @rule(who=ANY)
    def kill(self, who: int) -> None:
        """End a worker between two steps of its own; its partitions are claimed anew."""
        self.ran["killed"] += 1
        self.end(self.pick(who))

    @rule(owners=st.tuples(*[st.integers(0, 1)] * PARTITIONS), frozen=st.integers(0, 3), plan=PLANS)
    def rebalance(self, owners: tuple[int, ...], frozen: int, plan: Planned) -> None:
        """Move partitions; workers that are *frozen* do not notice and become zombies."""
        self.ran["rebalanced"] += 1
        members, self.live, stay = self.live, [], []
        for index, process in enumerate(members):
            if frozen >> index & 1:
                self.zombies.append(process)
            elif self.let(process, lambda process: process.run.release(), plan):
                stay += [process] if process not in self.zombies else []
        self.zombies += self.live  # those that stole in the middle of it
        self.live = []
        for slot in range(2):
            owned = [number for number, owner in enumerate(owners) if owner == slot]
            if owned:
                self.start(owned, stay.pop() if stay else None)

    @rule(by=st.integers(1, 30), everything=st.booleans())
    def idle(self, by: int, everything: bool) -> None:
        """Let time pass with nothing to read; with *everything*, all is read before."""
        for process in list(self.live) if everything else []:
            if not self.let(process, lambda process: process.round(MANY)):
                self.end(process)
        self.w.now_s += by
        for process in [*self.live, *self.zombies]:
            process.idle()

    @rule(by=st.integers(-9, 9))
    def close_until(self, by: int) -> None:
        """Request to close decisions up to a time about now."""
        for process in self.live:
            process.end_logs(self.now + by)

    @rule(plan=CLAIM_PLANS)
    def claim_again(self, plan: Planned) -> None:
        """Start a worker that claims from another, which does not know; it may end meanwhile."""
        owner = self.live.pop(0)
        self.zombies.append(owner)
        self.start(owner.owned, plan=plan)

    @invariant()
    def the_lake_is_what_the_logs_say(self) -> None:
        """Compare every row and every number with the oracle, if anything was committed."""
        versions = self.w.versions()
        if versions != self.checked:
            self.checked = versions
            check(self.w)

    def teardown(self) -> None:
        """Let one last worker read and close everything; then nothing may be open."""
        if not hasattr(self, "w") or sys.exc_info()[0] is not None:
            return
        self.start([0, 1])
        last = self.live[-1]
        for log in self.w.rules.logs:
            RUNNER.run_until_complete(last.poll(log, NEVER))
        RUNNER.run_until_complete(last.run.commit())
        last.end_logs(NEVER)
        RUNNER.run_until_complete(last.run.commit())
        check(self.w, is_over=True)
        self.ran["schedules"] += 1
        self.ran["three logs"] += self.w.stream is not None
        self.ran["items"] += self.w.items
        counted = [UNKNOWN_ITEM.key(number) for number in range(PARTITIONS)]
        progress = self.w.table("examples").progress(counted)
        self.ran["unknown_item"] += sum(number or 0 for number in progress.values())
        for name, column in (("examples", "state"), ("decisions", "verdict")):
            self.ran.update(str(row[0]) for row in self.w.table(name).read([column]).rows())
        self.ran["zombies"] += len(self.zombies)
        self.ran["revised"] += sum(
            number for (number,) in self.w.table("examples").read(["revision"]).rows()
        )

    def pick(self, who: int) -> Process:
        """Return one of the workers, zombies among them."""
        everyone = [*self.live, *self.zombies]
        return everyone[who % len(everyone)]

    def start(
        self, partitions: Sequence[int], process: Process | None = None, plan: Planned = None
    ) -> None:
        """Let *process*, or a new one, claim *partitions*; start another one if that fails."""
        process = process or Process(self.w)
        if self.let(process, lambda process: process.claim(partitions), plan):
            self.live.append(process)
        else:
            self.start(partitions)

    def let(
        self,
        process: Process,
        act: Callable[[Process], Coroutine[object, object, None]],
        plan: Planned = None,
    ) -> bool:
        """Let *process* do something while *plan* happens; return whether it is still running."""
        process.port.plan(self.planned(process, plan))
        try:
            RUNNER.run_until_complete(act(process))
        except CrashError:
            self.ran["crashed"] += 1
        except (LakeError, FencedError) as error:
            self.ran["fenced" if isinstance(error, FencedError) else "refused"] += 1
            process.port.plan(None)
            if isinstance(error, FencedError):
                assert process.is_stolen_from(), "only a worker that lost a partition is fenced"
            versions = self.w.versions()
            RUNNER.run_until_complete(process.run.release())
            assert self.w.versions() == versions, "nothing is committed after an error"
        else:
            process.port.plan(None)
            return True
        return False

    def end(self, process: Process) -> None:
        """End *process*; its partitions go to another one, unless it had lost them before."""
        if process in self.zombies:
            self.zombies.remove(process)
        elif process in self.live:
            self.live.remove(process)
            self.start(process.owned)

    def planned(self, process: Process, plan: Planned) -> Plan | None:
        """Return *plan* as what happens to *process*."""
        if plan is None:
            return None
        what, step, before = plan

        def happens() -> None:
            self.ran[f"{what} in the middle"] += 1
            match what:
                case "crash":
                    raise CrashError
                case "refuse":
                    raise LakeError("the storage refuses", hint="try later")
                case "steal" if process not in self.zombies:
                    self.steal(process)
                case "poll" if (
                    self.w.commit_rows == MANY
                ):  # else it would wait for this very commit
                    self.meanwhile(process.poll(logs.FEEDBACK, 3))

        return Plan(step, before, happens)

    def steal(self, process: Process) -> None:
        """Let a new worker claim the partitions of *process* in the middle of its work."""
        if process in self.live:
            self.live.remove(process)
        self.zombies.append(process)
        thief = Process(self.w)
        self.meanwhile(thief.claim(process.owned))
        self.live.append(thief)

    def meanwhile(self, act: Coroutine[object, object, None]) -> None:
        """Let *act* happen while a worker waits for the thread this is called in."""
        asyncio.run_coroutine_threadsafe(act, RUNNER).result()


def run(
    schedules: int, chosen: int, machine: type[Workers] = Workers, *, shrink: bool = True
) -> None:
    """Run so many schedules that follow from the seed *chosen*; *shrink* what fails.

    Raises:
        AssertionError: the lake differs from the oracle; Hypothesis has printed the schedule.
    """

    @seed(chosen)
    def factory() -> Workers:
        return machine()

    stages = list(Phase) if shrink else [Phase.generate]
    run_state_machine_as_test(
        factory,  # type: ignore[arg-type]  # it is called, whatever it is
        settings=settings(
            max_examples=schedules,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=stages,
            suppress_health_check=list(HealthCheck),
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run schedules in blocks of a thousand, each with a seed of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.streams.schedules", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    asked = parser.parse_args(arguments)
    logging.disable()  # most schedules have bad records, and a worker tells each kind of them
    for number in range(0, asked.schedules, BLOCK):
        chosen = asked.seed + number // BLOCK
        size = min(BLOCK, asked.schedules - number)
        print(f"{size} schedules of seed {chosen}", flush=True)
        run(size, chosen)
    print(json.dumps(Workers.ran), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
