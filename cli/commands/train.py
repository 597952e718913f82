"""`tidemill train`, `model list`, `model show`, `model importance`, `model restore`, and `keys`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tidemill.cli.options import AsJson, LoopName, LoopNames, MetricsHost, MetricsPort, PngFile
from tidemill.cli.terminal import print_text
from tidemill.errors import RequestError

if TYPE_CHECKING:
    from tidemill.trainers.registry import ModelVersion


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
    """Show every model that a loop has made, which one is live, and why the others are not."""
    from tidemill.cli.lakes import open_lake
    from tidemill.cli.tables.models import print_models
    from tidemill.trainers.registry import Registry

    lake = open_lake()
    lake.loop(loop)  # refuses a name that is not in the lake
    registry = Registry(lake, loop)
    print_models(loop, registry.models(), registry.live(), as_json=as_json)


def show(
    loop: LoopName,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As `model list` shows it.")],
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
