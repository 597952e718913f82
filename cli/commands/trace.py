"""`tidemill trace`: parse, call one function, print.

The command imports its room when it runs, so that `tidemill --help` loads none of them.
"""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.errors import BrokerError, RequestError

if TYPE_CHECKING:
    from tidemill.streams.deadletters.writer import DeadLetter

_LETTERS_TIMEOUT_S = 5.0


def trace(
    decision: Annotated[str, typer.Argument(metavar="DECISION", help="The id of a decision.")],
    loop: Annotated[str | None, typer.Option(help="Look in one loop; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show the whole life of one decision: offsets, files, windows, feedback, state, models.

    With KAFKA_BOOTSTRAP_SERVERS set, an id that the lake does not know is looked for among the
    dead letters.
    """
    from tidemill.cli.commands.lake import loops_of
    from tidemill.cli.tables.trace import print_trace
    from tidemill.features.lake.lake import Lake, LakeConfig
    from tidemill.monitor.trace import trace
    from tidemill.streams.join.rules import default_bucket

    lake = Lake(LakeConfig.from_env(os.environ))
    is_found = False
    for name in loops_of(lake) if loop is None else [loop]:
        defined = lake.loop(name)
        found = trace(lake, defined, decision, bucket=default_bucket(defined.wait))
        if found.is_known:
            print_trace(found, as_json=as_json)
            is_found = True
    if not is_found:
        raise _unknown(decision, loop)


def _unknown(decision: str, loop: str | None) -> RequestError:
    """Return the error for an id that the lake does not know, with what the dead letters say."""
    for letter in _letters(decision, loop):
        return RequestError(
            f"decision {decision} could not be read: {letter.reason}, {letter.detail}",
            hint=f"see it: tidemill dead-letters show --letter {letter.source}",
        )
    where = "any loop" if loop is None else loop
    return RequestError(
        f"no decision and no feedback with the id {decision} in {where}",
        hint="is the worker behind (tidemill lag), or the id cut? "
        'tidemill sql "SELECT id FROM decisions LIMIT 5" shows what ids look like',
    )


def _letters(decision: str, loop: str | None) -> "list[DeadLetter]":
    """Return the dead letters of records with the key *decision*, where Kafka can be asked."""
    from tidemill.kafka import KafkaConfig
    from tidemill.streams.deadletters.reader import DeadLetterReader, Wanted

    if "KAFKA_BOOTSTRAP_SERVERS" not in os.environ:
        return []
    box = DeadLetterReader(KafkaConfig.from_env(os.environ), timeout_s=_LETTERS_TIMEOUT_S)
    key = decision.encode()
    try:
        return [letter for letter in box.read(Wanted(loop=loop)) if letter.key == key]
    except BrokerError:
        return []
