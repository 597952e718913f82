"""`python -m benchmarks [PART ...]`: measure, print, write the report.

Without parts it runs the short ones and writes their figures to `benchmarks/report.json`. A run of
named parts only prints, unless told where to write. Long parts run only when named.
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.backfill import measure_backfill
from benchmarks.decide import measure_decisions
from benchmarks.delay import measure_delay
from benchmarks.feedback import measure_feedback
from benchmarks.figures import Figures, missed, rounded, table, write
from benchmarks.flat import measure_flat
from benchmarks.fleet import measure_fleet
from benchmarks.items import measure_items
from benchmarks.join import measure_join
from benchmarks.manyloops import measure_many_loops
from benchmarks.models import measure_models
from benchmarks.pair import measure_pair
from benchmarks.peers import measure_peers
from benchmarks.pending import measure_pending
from benchmarks.processes import stay_out_of_the_way
from benchmarks.train import measure_training
from benchmarks.workload import fill
from tidemill.deploy.local.kafka import find_kafka
from tidemill.errors import TidemillError
from tidemill.kafka import KafkaConfig

SHORT = (
    "join",
    "peers",
    "two_workers",
    "close_to_example_s",
    "decide",
    "items",
    "feedback",
    "train",
    "backfill",
)
LONG = ("flat", "pending", "many_loops", "fleet", "models")
SIZES = {  # of a full run
    "decisions": (int, 1_000_000, "of the join"),
    "naive-events": (int, 150_000, "the naive join reads"),
    "pair-decisions": (int, 4_000_000, "for two workers"),
    "pair-rounds": (int, 3, "of two workers and one; the middle one counts"),
    "live-rate": (float, 10_000.0, "events a second of the live traffic"),
    "live-seconds": (float, 60.0, "of live traffic"),
    "calls": (int, 400_000, "of decide, in process"),
    "seconds": (float, 10.0, "of load over HTTP"),
    "feedback-rate": (float, 2_000.0, "feedback a second over HTTP"),
    "rows": (int, 1_000_000, "of the training set"),
    "raw-decisions": (int, 1_000_000, "of the backfill"),
    "many-loops": (int, 200, "that are published together"),
    "pending-decisions": (int, 20_000_000, "of one window of pending"),
    "pending-memory": (str, "512MB", "the budget of pending"),
    "loops": (int, 1_000, "of the fleet"),
    "models": (int, 200, "in one serving worker"),
    "fleet-seconds": (float, 120.0, "of one event a second for each of them"),
    "busy-decisions": (int, 1_000_000, "of the loop beside the idle ones; 0 leaves it out"),
    "flat-events": (str, "1000000,5000000,20000000", "of each run of flat"),
}


def main() -> int:
    """Read the arguments, measure, print; return 1 if a run of full size misses a promise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(SHORT + LONG)}")
    for name, (kind, default, of) in SIZES.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{of} ({default})")
    parser.add_argument("--report", type=Path, help="the JSON file to put the figures in")
    asked = parser.parse_args()
    unknown = set(asked.parts) - {*SHORT, *LONG}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    stay_out_of_the_way()
    wanted = set(asked.parts or SHORT)
    report = measure(asked, wanted, Console(stderr=True))
    path = asked.report or (None if asked.parts else Path(__file__).with_name("report.json"))
    if path is not None:
        write(path, report, SHORT + LONG)
    Console(width=100).print(table(report))
    given = vars(asked)
    is_full = all(given[name.replace("-", "_")] == SIZES[name][1] for name in SIZES)
    return int(is_full and bool(missed(report) or wanted - report.keys()))


def measure(asked: argparse.Namespace, parts: set[str], console: Console) -> dict[str, Figures]:
    """Run *parts*, one after the other, on one broker."""
    report: dict[str, Figures] = {}
    if "train" in parts:
        report["train"] = rounded(measure_training(rows=asked.rows, say=console.print))
    if "items" in parts:
        report["items"] = rounded(measure_items(console.print))
    if "backfill" in parts:
        report["backfill"] = rounded(measure_backfill(asked.raw_decisions, console.print))
    if "pending" in parts:
        found = measure_pending(asked.pending_decisions, asked.pending_memory, console.print)
        report["pending"] = rounded(found)
    if parts <= {"train", "items", "backfill", "pending"}:
        return report
    running = find_kafka(os.environ)
    try:
        report |= _with_kafka(running.config, asked, parts, console)
    finally:
        running.stop()
    return {part: report[part] for part in SHORT + LONG if part in report}


def _with_kafka(
    kafka: KafkaConfig, asked: argparse.Namespace, parts: set[str], console: Console
) -> dict[str, Figures]:
    report: dict[str, Figures] = {}
    say = console.print
    if parts & {"join", "peers"}:  # peers are compared with ours over the same topics
        filled = fill(kafka, "join", asked.decisions)
        say(f"join: {filled.decisions:,} decisions and {filled.clicks:,} feedback are there")
        joined = measure_join(kafka, filled, naive_events=asked.naive_events, say=say)
        report["join"] = rounded(joined)
        if "peers" in parts:
            try:
                report["peers"] = rounded(measure_peers(kafka, filled, say))
            except (TidemillError, RuntimeError, TimeoutError) as error:  # continue with the rest
                say(f"[bold red]peers are left out:[/] {error}")
    if "two_workers" in parts:
        report["two_workers"] = rounded(
            measure_pair(kafka, asked.pair_decisions, say, rounds=asked.pair_rounds)
        )
    if "close_to_example_s" in parts:
        delayed = measure_delay(
            kafka, events_per_second=asked.live_rate, seconds=asked.live_seconds, say=say
        )
        report["close_to_example_s"] = rounded(delayed)
    if "flat" in parts:
        sizes = [int(size) for size in asked.flat_events.split(",")]
        report["flat"] = rounded(measure_flat(kafka, sizes, say))
    if "many_loops" in parts:
        many = measure_many_loops(kafka, loops=asked.many_loops, say=say)
        report["many_loops"] = rounded(many)
    if "fleet" in parts:
        fleet = measure_fleet(
            kafka,
            loops=asked.loops,
            seconds=asked.fleet_seconds,
            decisions=asked.busy_decisions,
            say=say,
        )
        report["fleet"] = rounded(fleet)
    if "models" in parts:
        served = measure_models(kafka, models=asked.models, seconds=asked.seconds, say=say)
        report["models"] = rounded(served)
    if "decide" in parts:
        decided = measure_decisions(kafka, decisions=asked.calls, seconds=asked.seconds, say=say)
        report["decide"] = rounded(decided)
    if "feedback" in parts:
        answered = measure_feedback(
            kafka, per_second=asked.feedback_rate, seconds=asked.seconds, say=say
        )
        report["feedback"] = rounded(answered)
    return report


if __name__ == "__main__":
    sys.exit(main())
