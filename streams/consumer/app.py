"""Sets up the Faust app of a worker, and runs it to its end in the running event loop.

`runtime/agents.py` adds the agents.
"""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faust
from faust.types.auth import CredentialsT
from mode.supervisors import CrashingSupervisor

from tidemill.errors import ConfigError
from tidemill.kafka import KafkaConfig

logger = logging.getLogger(__name__)

STOP_S = 4.0  # services that Faust has not stopped by then end with the process


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """The settings of a worker in its consumer group."""

    group: str
    data: Path  # Faust needs a folder of its own; it may be deleted at any time
    session_timeout_s: float = 10.0  # a worker that is silent for so long loses its partitions
    fetch_records: int = 8_000  # a fetched batch has at least so many records, if Kafka has them

    def __post_init__(self) -> None:
        if not 1.0 <= self.session_timeout_s <= 60.0:
            raise ConfigError(
                f"a session timeout of {self.session_timeout_s} s",
                hint="take 1 to 60 seconds: brokers refuse the rest",
            )


def new_app(kafka: KafkaConfig, group: GroupConfig) -> faust.App:
    """Return an app that reads by `batch://`, crashes as a whole, and has no state of its own."""
    addresses = kafka.bootstrap.replace(",", ";batch://")
    return faust.App(
        group.group,
        broker=f"batch://{addresses}",
        broker_producer=f"kafka://{addresses.replace('batch://', 'kafka://')}",
        broker_credentials=credentials(kafka),
        broker_max_poll_records=group.fetch_records,
        broker_session_timeout=group.session_timeout_s,
        broker_heartbeat_interval=group.session_timeout_s / 5,
        broker_request_timeout=max(60.0, group.session_timeout_s),
        broker_commit_interval=1.0,
        agent_supervisor=CrashingSupervisor,  # others ack failed events and continue: silent loss
        stream_wait_empty=True,  # batches being taken are finished before partitions are given up
        table_standby_replicas=1,  # 0 would take the assignor that separates decisions and feedback
        topic_disable_leader=True,
        web_enabled=False,
        canonical_url=f"http://{socket.gethostname()}:{os.getpid()}",  # a name for the assignor
        datadir=str(group.data),
    )


def credentials(kafka: KafkaConfig) -> CredentialsT | None:
    """Return what Faust needs to log in as librdkafka would with the options of *kafka*.

    Raises:
        ConfigError: an option asks for what aiokafka cannot do.
    """
    options = kafka.options
    protocol = options.get("security.protocol", "plaintext").upper()
    if protocol == "PLAINTEXT":
        return None
    if protocol not in ("SSL", "SASL_PLAINTEXT", "SASL_SSL"):
        raise ConfigError(
            f"security.protocol {protocol} is unknown",
            hint="set KAFKA_SECURITY_PROTOCOL to PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
        )
    context = None
    if protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=options.get("ssl.ca.location"))
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=options.get("sasl.username"),
        password=options.get("sasl.password"),
        mechanism=options.get("sasl.mechanism", options.get("sasl.mechanisms", "PLAIN")),
        ssl_context=context,
    )


async def run_app(app: faust.App, is_over: Callable[[], bool]) -> None:
    """Run *app* until *is_over* holds, which is asked ten times a second.

    Raises:
        BaseException: whatever crashed the app, or what *is_over* raised.
    """
    starting = asyncio.ensure_future(app.start())
    over = asyncio.ensure_future(_over(is_over))
    waits = (app._crashed.wait(), _failed(starting))
    ending = [over, *(asyncio.ensure_future(each) for each in waits)]
    await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
    for each in ending:
        each.cancel()
    await _stop(app)
    if starting.done() and not starting.cancelled():
        starting.result()
    starting.cancel()
    if app.crash_reason is not None:
        raise app.crash_reason
    if over.done() and not over.cancelled():
        over.result()


async def _stop(app: faust.App) -> None:
    """Stop *app*; if it cannot be stopped in order, continue: everything committed is in the lake.

    A consumer that has just lost its group cancels its last write of offsets. Faust takes that for
    a cancellation of its own stop, and leaves the stop half done.
    """
    stopping = asyncio.ensure_future(app.stop())
    await asyncio.wait([stopping], timeout=STOP_S)
    if not stopping.done() or stopping.cancelled():
        logger.warning("the consumer did not stop in order; nothing is lost by that")
        stopping.cancel()
    else:
        stopping.result()


async def _over(is_over: Callable[[], bool]) -> None:
    while not is_over():  # noqa: ASYNC110 (threads without an event loop change the answer)
        await asyncio.sleep(0.1)


async def _failed(starting: "asyncio.Future[None]") -> None:
    """Return only if *starting* fails."""
    await asyncio.wait([starting])
    if starting.cancelled() or starting.exception() is None:
        await asyncio.Event().wait()
