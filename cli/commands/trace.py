"""`tidemill trace` and `tidemill explain`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.options import AsJson, PngFile
from tidemill.errors import BrokerError, RequestError

if TYPE_CHECKING:
    from tidemill.streams.deadletters.writer import DeadLetter

_DEAD_LETTERS_TIMEOUT_S = 5.0


def trace(
    decision: Annotated[str, typer.Argument(metavar="DECISION", help="The id of a decision.")],
    loop: Annotated[str | None, typer.Option(help="Look in one loop; in all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the whole life of one decision: offsets, files, windows, feedback, state, models.

    With KAFKA_BOOTSTRAP_SERVERS set, an id that is not in the lake is looked for among the dead
    letters.
    """
    from tidemill.cli.lakes import chosen_loops, open_lake
    from tidemill.cli.tables.trace import print_trace
    from tidemill.features.lake.damage import damage_told
    from tidemill.monitor.trace import trace
    from tidemill.streams.join.rules import default_bucket

    lake = open_lake()
    is_found = False
    for name in chosen_loops(lake, loop):
        defined = lake.loop(name)
        with damage_told(lake, name):
            found = trace(lake, defined, decision, bucket=default_bucket(defined.wait))
        if found.is_known:
            print_trace(found, as_json=as_json)
            is_found = True
    if not is_found:
        raise _unknown(decision, loop)


def explain(
    decision: Annotated[str, typer.Argument(metavar="DECISION", help="The id of a decision.")],
    loop: Annotated[str | None, typer.Option(help="Look in one loop; in all by default.")] = None,
    item: Annotated[
        str | None, typer.Option(help="Compare this item of the request with the one taken.")
    ] = None,
    png: PngFile = None,
    as_json: AsJson = False,
) -> int:
    """Make one decision again from the lake, and show what each feature added to its score.

    Score, action and propensity are computed by the model, the policy and the features of the
    decision, and compared bit for bit with what was logged. The exit status is 1 if they differ.
    Of a request that brought items, the score and the propensity of each are shown.
    """
    from tidemill.cli.charts import draw_explanation
    from tidemill.cli.lakes import chosen_loops, open_lake
    from tidemill.cli.tables.explain import print_explanation
    from tidemill.deploy.explain.explanation import Explainer
    from tidemill.features.lake.damage import damage_told

    lake = open_lake()
    found = []
    for name in chosen_loops(lake, loop):
        with damage_told(lake, name):
            explanation = Explainer(lake, name).explain(decision, item)
        if explanation is not None:
            found.append(explanation)
    if not found:
        where = "any loop" if loop is None else loop
        raise RequestError(
            f"the lake has no decision with the id {decision} in {where}",
            hint=f"see where it is: tidemill trace {decision}",
        )
    if png is not None:
        draw_explanation(found[0], png)
    for explanation in found:
        print_explanation(explanation, as_json=as_json)
    return int(any(each.differences for each in found))


def _unknown(decision: str, loop: str | None) -> RequestError:
    """Return the error for an id that is not in the lake, with the reason of its dead letter."""
    for letter in _dead_letters(decision, loop):
        return RequestError(
            f"decision {decision} could not be read: {letter.reason}, {letter.detail}",
            hint=f"see it: tidemill dead-letters show --letter {letter.source}",
        )
    where = "any loop" if loop is None else loop
    return RequestError(
        f"no decision and no feedback with the id {decision} in {where}",
        hint="see if the worker is behind (tidemill lag), and if the id is whole: "
        'tidemill sql "SELECT id FROM decisions LIMIT 5" shows some',
    )


def _dead_letters(decision: str, loop: str | None) -> "list[DeadLetter]":
    """Return the dead letters with the key *decision*; none if Kafka does not answer."""
    from tidemill.kafka import KafkaConfig
    from tidemill.streams.deadletters.reader import DeadLetterReader, Wanted

    if "KAFKA_BOOTSTRAP_SERVERS" not in os.environ:
        return []
    reader = DeadLetterReader(KafkaConfig.from_env(os.environ), timeout_s=_DEAD_LETTERS_TIMEOUT_S)
    key = decision.encode()
    try:
        return [letter for letter in reader.read(Wanted(loop=loop)) if letter.key == key]
    except BrokerError:
        return []
