"""`tidemill try`."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.options import AsJson, LoopFileArgument
from tidemill.cli.terminal import print_text, progress_bar


def try_(
    path: LoopFileArgument,
    events: Annotated[
        Path,
        typer.Option(help="Decisions and feedback of the past, a JSON object in each line."),
    ],
    lake: Annotated[
        Path | None,
        typer.Option(help="Keep the lake of the run in this folder, for tidemill sql and others."),
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Bring the history into the loop on Kafka, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Play a history through a loop without Kafka, and say what the loop would have learned.

    A decision of the file has id, at and features, and if known action and propensity; a feedback
    has decision_id, kind and at. They go through the join, the learners and the gate, in event
    time. Without --publish nothing is written outside the
    folder of the lake.
    """
    from tidemill.cli.tables.sandbox import print_report
    from tidemill.deploy.sandbox.history import read_history
    from tidemill.deploy.sandbox.history_publisher import publish_history
    from tidemill.deploy.sandbox.sandbox import Sandbox, empty_folder
    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.loop.labels import checked_loop
    from tidemill.serving.model.admission import try_payload

    loop = checked_loop(path)
    with progress_bar("reading") as show:
        history = read_history(events, loop, show)
    with tempfile.TemporaryDirectory(prefix="tidemill-try-") as passing:
        folder = Path(passing) if lake is None else empty_folder(lake)
        with progress_bar("playing") as show:
            report = Sandbox(loop, folder, trial=try_payload).play(history, show)
    print_report(loop, report, as_json=as_json)
    if publish:
        config = KafkaConfig.from_env(os.environ)
        with progress_bar("publishing") as show:
            publish_history(config, loop, history, os.environ, show)
        if not as_json:
            print_text(f"{len(history):,} events are in the loop {loop.loop} at {config.bootstrap}")
