"""Backfills, replays and repairs that have ended, and the list of a loop's backfills."""

from tidemill.cli.terminal import add_row, new_table, print_json, print_table, print_text
from tidemill.deploy.reprocess.repair import Repaired
from tidemill.deploy.reprocess.replay import Replayed
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.backfills import (
    COUNTS,
    Backfill,
    Done,
    backfills,
    done,
    read_backfill,
    view_name,
)


def print_backfill(backfill: Backfill, found: Done, cpu_s: float, *, as_json: bool) -> None:
    """Print the counts of a *backfill* that has ended, and the name of its view."""
    totals = {count: found.total(count) for count in COUNTS}
    loop, view = backfill.loop.loop, view_name(backfill.name)
    if as_json:
        names = {"loop": loop, "name": backfill.name, "view": view}
        print_json(names | {"slices": backfill.slices, **totals, "cpu_s": round(cpu_s, 3)})
        return
    print_text(
        f"{loop}: {totals['examples']:,} examples in view {view}; besides "
        f"{totals['late']:,} late, {totals['duplicate']:,} duplicate decisions"
    )
    if totals["open"]:
        print_text(
            f"  {totals['open']:,} decisions are left out: their windows end after the last "
            "record in the lake"
        )


def print_backfills(lake: Lake, loop: str, *, as_json: bool) -> None:
    """Print the backfills of *loop* in *lake*, one in each row or JSON line."""
    numbers = ("slices", "done", "examples")
    table = new_table("name", "view", "from", "to", *numbers, numbers=numbers)
    for name in backfills(lake, loop):
        row = _row(lake, loop, name)
        if as_json:
            print_json(row)
        add_row(table, *(row | {"view": row["view"] or "not complete"}).values())
    if not as_json:
        print_table(table)


def _row(lake: Lake, loop: str, name: str) -> dict[str, object]:
    backfill = read_backfill(lake, loop, name)
    found = done(lake, backfill)
    return {
        "name": name,
        "view": view_name(name) if found.is_complete else None,
        "from": None if backfill.since is None else backfill.since.isoformat(),
        "to": None if backfill.until is None else backfill.until.isoformat(),
        "slices": backfill.slices,
        "done": len(found.slices),
        "examples": found.total("examples"),
    }


def print_replay(replayed: Replayed, into: str, *, as_json: bool) -> None:
    """Print the counts of a replay *into* a lake; if it was interrupted, only as JSON."""
    if as_json:
        print_json(replayed.to_json())
    elif replayed.is_whole:
        name = f"{replayed.loop} version {replayed.version}"
        print_text(f"{name}: {replayed.records:,} records replayed into {into}")
        ends = ", ".join(f"{count:,} {end}" for end, count in replayed.counts.items() if count)
        print_text(f"  decisions: {ends or 'none'}")


def print_repair(repaired: Repaired, *, as_json: bool) -> None:
    """Print how many rows a repair has put back, by table."""
    if as_json:
        print_json(repaired.to_json())
        return
    rows = ", ".join(f"{count:,} of {table}" for table, count in repaired.rows.items() if count)
    print_text(f"{repaired.loop}: rows put back: {rows or 'none, nothing is lost'}")
    files = sum(repaired.files.values())
    if files:
        print_text(f"  {files:,} lost files are taken out of the logs of the tables")
