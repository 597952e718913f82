"""`tidemill train` without a name: the signals, the metrics, and what is done only once."""

import logging
import os
import threading
from functools import partial

from tidemill.errors import TidemillError
from tidemill.features.lake.lake import Lake
from tidemill.kafka import BadRecords
from tidemill.log_fields import log_fields
from tidemill.schemas.published import fetch_loops, used_loops
from tidemill.stop_signals import STOP_S, StopSignals
from tidemill.trainers.fleet.fleet_config import FleetConfig
from tidemill.trainers.fleet.fleet_trainer import FleetTrainer, OnLoopVersion
from tidemill.trainers.fleet.model_topic import SharedModelTopic
from tidemill.trainers.metrics import WORK, TrainerMetrics
from tidemill.trainers.model_trial import Trial
from tidemill.trainers.publisher import Publisher
from tidemill.trainers.trainer import NewestCycle
from tidemill.work_log import WorkLog

logger = logging.getLogger(__name__)

FAILED = 1  # the exit status of training once, if a loop could not be trained


def run_fleet(
    config: FleetConfig,
    *,
    trial: Trial,
    on_version: OnLoopVersion = lambda _loop, _model: None,
) -> int:
    """Train the loops that fall to this process until SIGTERM or SIGINT, or each of all once.

    Args:
        config: the settings.
        trial: what a model must survive before it is promoted.
        on_version: called with a loop and its new version, once that is in the registry.

    Returns:
        The exit status.

    Raises:
        TidemillError: a setting is wrong; or, when training once, the broker does not answer.
    """
    bad = BadRecords()
    metrics = TrainerMetrics(bad)
    if config.metrics is not None:
        config.metrics.serve(metrics.registry)
    if config.once:
        return _once(config, trial, on_version, metrics, bad)
    stop = threading.Event()
    fleet = FleetTrainer(config, trial=trial, on_version=on_version, metrics=metrics, bad=bad)
    with WorkLog(metrics.registry, WORK), StopSignals(stop, within_s=STOP_S):
        fleet.run(stop)
    return os.EX_OK


def _once(
    config: FleetConfig,
    trial: Trial,
    on_version: OnLoopVersion,
    metrics: TrainerMetrics,
    bad: BadRecords,
) -> int:
    """Train each published loop; one that fails is told, and the others are trained."""
    lake, topic, status = Lake(config.lake), SharedModelTopic(config.kafka), os.EX_OK
    published = fetch_loops(config.kafka, bad)
    for loop in sorted(config.loops or used_loops(published)):
        newest = NewestCycle(
            loop,
            lake,
            Publisher(topic, loop, config.key),
            trial=trial,
            on_version=metrics.reporting(loop, partial(on_version, loop)),
            metrics=metrics,
        )
        try:
            with log_fields(loop=loop):
                newest.among(published).run(force=True)
        except TidemillError as error:
            logger.error("%s is not trained: %s", loop, error)
            status = FAILED
    topic.close()
    return status
