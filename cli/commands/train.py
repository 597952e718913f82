"""`tidemill train`, `keys`, and the commands of `tidemill model`.

Longer than 300 lines because each command is a function with its options and its help.
"""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tidemill.cli.options import (
    AsJson,
    LoopName,
    LoopNames,
    MetricsHost,
    MetricsPort,
    PngFile,
    Who,
    Why,
    person,
)
from tidemill.cli.terminal import print_text
from tidemill.errors import BrokerError, ModelError, RequestError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from tidemill.cli.tables.models import StageRow
    from tidemill.features.lake.lake import Lake
    from tidemill.schemas.loop.definition import Loop
    from tidemill.schemas.models.manifest import Ack
    from tidemill.trainers.registry import ModelVersion
    from tidemill.trainers.rollout.by_hand import ByHand
    from tidemill.trainers.rollout.stages import StageChange, Standing

Version = Annotated[str, typer.Argument(metavar="VERSION", help="As `model list` shows it.")]
AnyVersion = Annotated[
    str | None, typer.Argument(metavar="VERSION", help="As `model list` shows it.")
]


def train(
    loops: LoopNames = None,
    once: Annotated[bool, typer.Option("--once", help="Train now, publish, and end.")] = False,
    as_json: AsJson = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
) -> int:
    """Train models as examples come in, until Ctrl-C, or once.

    Without a name it trains every published loop, also those that are published later. Processes
    with the same names, or none, share the loops, and take over those of one that ends.
    """
    from tidemill.metrics_page import MetricsPage
    from tidemill.serving.model.admission import try_payload
    from tidemill.trainers.fleet.fleet_config import FleetConfig
    from tidemill.trainers.fleet.process import run_fleet
    from tidemill.trainers.trainer import TrainerConfig, run_trainer

    page = MetricsPage.asked(os.environ, metrics_port, metrics_host)
    told = _ToldModels(as_json=as_json)
    if loops is not None and len(loops) == 1:
        config = replace(TrainerConfig.from_env(os.environ, loops[0], once=once), metrics=page)
        status = run_trainer(config, trial=try_payload, on_version=told.tell)
    else:
        fleet = replace(FleetConfig.from_env(os.environ, loops or (), once=once), metrics=page)
        status = run_fleet(fleet, trial=try_payload, on_version=told.tell_of)
    if once and not told.count and not as_json:
        who = ", ".join(loops) if loops else "all loops"
        print_text(f"{who}: nothing new to learn from, or fewer labels than `min_labels`")
    return status


class _ToldModels:
    """Prints each new version of a model, and counts them."""

    def __init__(self, *, as_json: bool) -> None:
        self.count = 0
        self._as_json = as_json

    def tell_of(self, loop: str, model: "ModelVersion") -> None:
        """Print *model* with the name of its loop."""
        self.tell(model, loop)

    def tell(self, model: "ModelVersion", loop: str | None = None) -> None:
        """Print *model*."""
        from tidemill.cli.tables.models import model_document
        from tidemill.cli.terminal import print_json

        self.count += 1
        if self._as_json:
            print_json(({"loop": loop} if loop else {}) | model_document(model))
        else:
            print_text(f"{f'{loop} ' if loop else ''}{model.version}: {model.reason}")


def models(loop: LoopName, as_json: AsJson = False) -> None:
    """Show every model that a loop has made, which one is live, and why the others are not.

    For a model in a stage it says since when, on how many decisions, and with
    KAFKA_BOOTSTRAP_SERVERS how many workers have acknowledged it. Where the loop has a control, it
    says what live decisions have earned beside it.
    """
    from tidemill.cli.lakes import open_lake
    from tidemill.cli.tables.models import print_beside_control, print_models
    from tidemill.trainers.registry import Registry
    from tidemill.trainers.rollout.evidence import against_control

    lake = open_lake()
    defined = lake.loop(loop)  # refuses a name that is not in the lake
    registry = Registry(lake, loop)
    standing = registry.stages.standing
    rows = _in_stages(lake, defined, standing)
    print_models(
        loop, registry.models(), registry.live(), as_json=as_json, stages=rows, standing=standing
    )
    if defined.rollout is not None and defined.rollout.control and not as_json:
        live = standing.live
        print_beside_control(loop, against_control(lake, defined, live.since if live else None))


def _in_stages(lake: "Lake", loop: "Loop", standing: "Standing") -> "list[StageRow]":
    """Return the models that are in a stage now, the live one first."""
    from tidemill.cli.tables.models import StageRow
    from tidemill.monitor.convergence import convergence
    from tidemill.trainers.rollout.evidence import rows_in_stage

    acks = _acks()
    return [
        StageRow(
            change=each,
            rows=rows_in_stage(lake, loop, each),
            taken_up=None
            if acks is None
            else convergence(acks, loop.loop, each.stage, each.version),
        )
        for each in (standing.live, standing.candidate)
        if each is not None
    ]


def _acks() -> "list[Ack] | None":
    """Return what workers have acknowledged; None if the environment names no Kafka."""
    from tidemill.kafka import KafkaConfig, read_compacted
    from tidemill.schemas import topics
    from tidemill.schemas.models.manifest import Ack

    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return None
    try:
        values = read_compacted(KafkaConfig.from_env(os.environ), topics.ACKS).values()
    except BrokerError as error:
        logger.warning("what workers have acknowledged is not known: %s", error.what)
        return None
    found = []
    for value in values:
        with suppress(ModelError):  # anybody may write there; the monitor reports it
            found.append(Ack.from_json(value))
    return found


def show(
    loop: LoopName,
    version: Version,
    as_json: AsJson = False,
) -> None:
    """Show the record of one model: its verdict, what it learned, and how it was judged."""
    from tidemill.cli.lakes import open_lake
    from tidemill.cli.tables.models import print_model
    from tidemill.trainers.registry import Registry

    lake = open_lake()
    lake.loop(loop)  # refuses a name that is not in the lake
    registry = Registry(lake, loop)
    found = next((one for one in registry.models() if one.version == version), None)
    if found is None:
        raise RequestError(
            f"{loop} has no model {version!r}", hint=f"see tidemill model list {loop}"
        )
    print_model(found, is_live=found == registry.live(), as_json=as_json)


def importance(
    loop: LoopName,
    model: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Another model than the live one.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=2, help="How often each feature is shuffled.")] = 5,
    png: PngFile = None,
    as_json: AsJson = False,
) -> None:
    """Show how much a model needs each feature: by its splits, and by rows it has not learned.

    A feature is shuffled among the rows that are later than those the model has learned; how much
    worse the gate's metric gets is its importance.
    """
    from tidemill.cli.charts import draw_importance
    from tidemill.cli.lakes import open_lake
    from tidemill.cli.tables.explain import print_importance
    from tidemill.features.lake.damage import damage_told
    from tidemill.trainers.evaluation.importance import importance_of, named_model

    lake = open_lake()
    with damage_told(lake, loop):
        defined = lake.loop(loop)
        chosen = named_model(lake, defined, model)
        found = importance_of(lake, defined, chosen, repeats=repeats)
    if png is not None:
        draw_importance(found, png)
    print_importance(found, as_json=as_json)


def promote(loop: LoopName, version: Version, why: Why, who: Who = None) -> None:
    """Let a model decide from now on, whatever stage it is in; `default` for the default.

    The change is recorded in the lake and then published. It needs TIDEMILL_SIGNING_KEY, and no
    trainer; a trainer that runs goes on with it.
    """
    _changed(loop, who, lambda hand: hand.promote(version, why), f"{version} is live already")


def rollback(loop: LoopName, why: Why, version: AnyVersion = None, who: Who = None) -> None:
    """Let a former model decide again; by default the one that was live before.

    It needs TIDEMILL_SIGNING_KEY, and no trainer. To keep the trainer from promoting another model,
    pin the loop.
    """
    _changed(loop, who, lambda hand: hand.roll_back(version, why), "it is live already")


def pin(loop: LoopName, why: Why, version: AnyVersion = None, who: Who = None) -> None:
    """Let a model decide, by default the live one, until a person changes that.

    The loop goes on to train and to judge, and its trainer changes no stage. Guardrails warn.
    """
    _changed(loop, who, lambda hand: hand.pin(version, why), f"{loop} is pinned already")


def freeze(loop: LoopName, why: Why, who: Who = None) -> None:
    """Let nothing change: the loop is pinned, and does not train either."""
    _changed(loop, who, lambda hand: hand.freeze(why), f"{loop} is frozen already")


def release(loop: LoopName, why: Why, who: Who = None) -> None:
    """End `pin` and `freeze`: the trainer trains and changes stages again."""
    _changed(loop, who, lambda hand: hand.release(why), f"{loop} is neither pinned nor frozen")


def _changed(
    loop: str, who: str | None, change: "Callable[[ByHand], StageChange | None]", unchanged: str
) -> None:
    """Make a change by hand, and publish what the topic lacks, also if nothing has changed."""
    from tidemill.cli.lakes import open_lake
    from tidemill.cli.tables.models import print_change
    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.models.signing import SigningKey
    from tidemill.trainers.publisher import KafkaModelTopic, Publisher
    from tidemill.trainers.rollout.by_hand import ByHand
    from tidemill.trainers.rollout.slots import SlotPublisher

    kafka, key, lake = (
        KafkaConfig.from_env(os.environ),
        SigningKey.from_env(os.environ),
        open_lake(),
    )
    hand = ByHand(lake.loop(loop), lake, who=person(who))
    made = change(hand)
    publisher = Publisher(KafkaModelTopic(kafka), loop, key, sweeps=False)
    SlotPublisher(hand.registry, publisher).publish()
    print_text(unchanged) if made is None else print_change(loop, made)


def restore(loop: LoopName, as_json: AsJson = False) -> int:
    """Restore the models of a loop from the model topic, in a lake that has lost them.

    After `tidemill lake replay` into a new lake, with TIDEMILL_LAKE set to that lake. Stop the
    trainer before. It needs TIDEMILL_TRUSTED_KEYS.
    """
    from tidemill.cli.lakes import open_lake
    from tidemill.cli.tables.models import print_models
    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.models.signing import TrustedKeys
    from tidemill.schemas.published import latest_loop
    from tidemill.trainers.model_restore import restore_models
    from tidemill.trainers.publisher import KafkaModelTopic
    from tidemill.trainers.registry import Registry

    kafka, lake = KafkaConfig.from_env(os.environ), open_lake()
    topic, trusted = KafkaModelTopic(kafka), TrustedKeys.from_env(os.environ)
    restored = restore_models(lake, latest_loop(kafka, loop), topic, trusted)
    print_models(loop, restored, Registry(lake, loop).live(), as_json=as_json)
    return 0


def keys(
    action: Annotated[Literal["init"], typer.Argument(help="init: make a new pair.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the two files go.")],
) -> None:
    """Make a pair of keys: trainers sign models with one, workers trust the other."""
    from tidemill.schemas.models.signing import SIGNING_KEY, TRUSTED_KEYS, init_keys

    signing, trusted = init_keys(folder)
    print_text(f"export {SIGNING_KEY}={signing.absolute()}    # for trainers; keep it secret")
    print_text(f"export {TRUSTED_KEYS}={trusted.absolute()}    # for workers")
