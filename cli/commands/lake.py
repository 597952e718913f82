"""`tidemill sql`, `tidemill ledger` and `tidemill compact`: parse, call one function, print.

Each command imports its room when it runs, so that `tidemill --help` loads none of them.
"""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.errors import LakeError

if TYPE_CHECKING:
    from tidemill.features.lake.lake import Lake


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views of the lake.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most rows to print.")] = 100,
) -> None:
    """Ask the lake a question in SQL.

    The views of loop `flight-delay` are in schema flight_delay: decisions, feedback, examples,
    decision_states and feedback_states; with one loop in the lake the schema may be left out.
    """
    from tidemill.cli.tables.answers import print_answer
    from tidemill.features.lake.lake import Lake, LakeConfig
    from tidemill.features.sql.queries import ask

    lake = Lake(LakeConfig.from_env(os.environ))
    print_answer(ask(lake, query, limit=limit), as_json=as_json)


def ledger(
    loop: Annotated[str | None, typer.Argument(help="One loop; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> int:
    """Show that all records read have ended or are open; exit 1 if one is not accounted for.

    With KAFKA_BOOTSTRAP_SERVERS set, what the logs hold beyond is shown as unread.
    """
    from tidemill.cli.tables.answers import print_ledger
    from tidemill.features.lake.lake import Lake, LakeConfig
    from tidemill.kafka import KafkaConfig
    from tidemill.monitor.ledger import is_balanced, ledger
    from tidemill.monitor.log_ends import log_ends

    lake = Lake(LakeConfig.from_env(os.environ))
    kafka = "KAFKA_BOOTSTRAP_SERVERS" in os.environ and KafkaConfig.from_env(os.environ)
    accounts = []
    for name in loops_of(lake) if loop is None else [loop]:
        defined = lake.loop(name)
        accounts += ledger(lake, defined, ends=log_ends(kafka, defined) if kafka else None)
    print_ledger(accounts, as_json=as_json)
    return 0 if is_balanced(accounts) else 1


def compact(
    loop: Annotated[str | None, typer.Argument(help="One loop; all by default.")] = None,
) -> None:
    """Merge the small files of each day, and remove what no reader needs any more."""
    from tidemill.features.lake.compaction import compact
    from tidemill.features.lake.lake import Lake, LakeConfig

    lake = Lake(LakeConfig.from_env(os.environ))
    for name in loops_of(lake) if loop is None else [loop]:
        for done in compact(lake, name):
            typer.echo(
                f"{name}/{done.table}: {done.merged} files merged to {done.made},"
                f" {done.removed} old files removed"
            )


def loops_of(lake: "Lake") -> list[str]:
    """Return the loops of *lake*; none at all is a wrong address far more often than a new lake."""
    found = lake.loops()
    if not found:
        raise LakeError(
            f"the lake at {lake.root} has no loops",
            hint="start a worker for a published loop first, or check TIDEMILL_LAKE",
        )
    return found
