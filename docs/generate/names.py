"""What the reference reads of tidemill. The only module of `docs/` that imports it.

When something public is added, moved or renamed, this is the file to change.
"""

from dataclasses import replace
from importlib.resources import files
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

import tidemill
from tidemill import errors
from tidemill.cli import app
from tidemill.cli.catalog import COMMANDS
from tidemill.features.lake.memory_tables import MemoryCommit, MemoryLake, MemoryTable
from tidemill.kafka import KafkaConfig
from tidemill.monitor.chain import Chain
from tidemill.monitor.lag import GroupLag
from tidemill.monitor.ledger import Account
from tidemill.monitor.observer import Status
from tidemill.monitor.readings import LoopRows, Reading
from tidemill.monitor.status import as_metrics
from tidemill.schemas.loop import definition
from tidemill.schemas.loop.json_schema import loop_json_schema
from tidemill.schemas.loop.loop_file import dump_loop, load_loop, parse_loop
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.schemas.published import MemoryLoops
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.api.descriptions import openapi
from tidemill.serving.api.metrics import registry_of
from tidemill.serving.client.async_client import AsyncLoopClient
from tidemill.serving.client.client import LoopClient
from tidemill.serving.decision.event_log import Event, MemoryEventLog
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.worker import ServingWorkerConfig, Worker
from tidemill.streams.consumer.memory_log import MemoryLog, MemoryRecord
from tidemill.streams.deadletters.writer import MemoryDeadLetters
from tidemill.streams.metrics import StreamMetrics
from tidemill.trainers.metrics import TrainerMetrics
from tidemill.trainers.publisher import MemoryModelTopic

Command = Any  # Typer has click's classes under private names of its own
Parameter = Any

API: dict[str, list[object]] = {
    "client": [
        tidemill.Client,
        LoopClient,
        tidemill.AsyncClient,
        AsyncLoopClient,
        DecisionResult,
        KafkaConfig,
        TrustedKeys,
    ],
    "loop files": [load_loop, parse_loop, dump_loop],
    "loop": [
        definition.Loop,
        definition.Decision,
        definition.Feature,
        definition.FieldType,
        definition.Feedback,
        definition.Label,
        definition.Policy,
        definition.Models,
        definition.Batch,
        definition.Retrain,
        definition.Online,
        definition.Gate,
        definition.MaxBad,
    ],
    "memory": [
        MemoryLake,
        MemoryTable,
        MemoryCommit,
        MemoryLog,
        MemoryRecord,
        MemoryEventLog,
        Event,
        MemoryLoops,
        MemorySchemaStore,
        MemoryModelTopic,
        MemoryDeadLetters,
    ],
}
"""The public Python names, by the placeholder of the page they are on."""

ERRORS = errors

PUBLIC_FROM = (tidemill, definition)
"""Modules that export names of others; a name is shown by the first of them that has it."""


FORMER_NAMES = {command.name: command.alias for command in COMMANDS if command.alias is not None}
"""Names of commands that still work, by the name of today."""


def command_tree() -> Command:
    """Return the whole command line; an app loads one command, so there is one app for each."""
    tree: Command = app.command_tree(COMMANDS, [])
    for command in COMMANDS:
        into: Command = tree
        loaded: Command = app.command_tree(COMMANDS, command.words)
        for noun in command.words[:-1]:
            into, loaded = into.commands[noun], loaded.commands[noun]
        into.commands[command.words[-1]] = loaded.commands[command.words[-1]]
    return tree


def loop_schema() -> dict[str, Any]:
    """Return the JSON Schema of loop files."""
    return loop_json_schema()


def registries() -> dict[str, CollectorRegistry]:
    """Return what each process answers with on /metrics, by the heading of its table."""
    return {
        "Streams worker": StreamMetrics().registry,
        "Serving worker": _serving(),
        "Trainer": TrainerMetrics().registry,
        "Monitor": _monitor(),
    }


def _serving() -> CollectorRegistry:
    config = ServingWorkerConfig(kafka=KafkaConfig("localhost:9092"), name="reference")
    return registry_of(Worker(config, event_log=MemoryEventLog()))


def served_api() -> dict[str, Any]:
    """Return the OpenAPI document of a worker with the loop of `tidemill init my-loop.yaml`."""
    template = files("tidemill.cli").joinpath("loop.template.yaml").read_text(encoding="utf-8")
    config = ServingWorkerConfig(
        kafka=KafkaConfig("localhost:9092"), name="reference", definitions=(parse_loop(template),)
    )
    return openapi(Worker(config, event_log=MemoryEventLog()).follower.deciders.values())


def _monitor() -> CollectorRegistry:
    """Return gauges like those of the monitor, which makes its own at each reading."""
    chain = Chain(
        loop="",
        decision_age_s=0.0,
        feedback_age_s=0.0,
        example_age_s=0.0,
        closed_until=None,
        model=None,
        model_age_s=0.0,
        serving=0,
        workers=0,
        refused=0,
        trainer_age_s=0.0,
        backlog=0,
    )
    retired = replace(chain, retired="why")
    account = Account(loop="", log="", partition=0, read=0, ends={}, open=0, twice=0, lost=0)
    lag = GroupLag(group="", members=0, partitions=())
    status = Status(
        bad_records=Reading(name="topics", value=[]),
        chains=Reading(name="loops", value=LoopRows(rows=[chain, retired], unread={"": ""})),
        lags=Reading(name="lag", value=[lag]),
        accounts=Reading(name="ledger", value=LoopRows(rows=[account])),
    )
    registry = CollectorRegistry()
    for family in text_string_to_metric_families(as_metrics(status).decode()):
        labels = [name for sample in family.samples[:1] for name in sample.labels]
        Gauge(family.name, family.documentation, labels, registry=registry)
    return registry
