"""The thread that aiokafka's consumer lives in: how it is set up, and what it hands out.

It overrides private names, as `transport.py` does, which it belongs to.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

import aiokafka
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import WorkerThread

from tidemill.streams.consumer.prefetch import WholeBatches, keep_bytes

logger = logging.getLogger(__name__)

FETCH_WAIT_MS = 100  # a longer poll on caught-up partitions would hold back the busy ones


class _Daemon(WorkerThread):  # type: ignore[misc]  # Faust is not typed
    """A thread that does not keep a process alive whose app could not be stopped in order."""

    def __init__(self, service: driver.AIOKafkaConsumerThread, **kwargs: Any) -> None:  # noqa: ANN401 (Faust's own)
        super().__init__(service, **kwargs)
        self.daemon = True


class BatchThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is not typed
    """The thread with aiokafka's consumer; fetches are short, a broker that is away is no crash."""

    Worker = _Daemon

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        self._assignor = self.app.assignor  # co-partitioned: all topics of a loop stay together
        auth = driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context)
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # only ever used below the log's start: see _check
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 0) * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            isolation_level="read_committed",  # events of an aborted transaction never happened
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **auth,
        )

    async def on_start(self) -> None:
        """Start aiokafka's consumer, and let it hand out whole record batches."""
        keep_bytes()
        await super().on_start()
        self._fetches = WholeBatches(
            self.consumer.is_batched, self.app.conf.broker_max_poll_records
        )
        self._ensure_consumer()._fetcher._records = self._fetches

    async def _seek_wait(
        self, consumer: aiokafka.AIOKafkaConsumer, partitions: Mapping[TP, int]
    ) -> None:
        """Seek, and forget what was fetched before any other answer can come in."""
        self._fetches.forget(map(driver.ensure_aiokafka_TP, partitions))
        await super()._seek_wait(consumer, partitions)

    def control_batches(self, tp: TP) -> tuple[int, int] | None:
        """Return the range of offsets at the end of what was handed out that hold but marks."""
        return self._fetches.control_batches(driver.ensure_aiokafka_TP(tp))

    def ran_to(self, tp: TP) -> int:
        """Return the offset behind the last records that were handed out, 0 after a seek."""
        return self._fetches.ran_to(driver.ensure_aiokafka_TP(tp))

    def known(self, tp: TP) -> tuple[int, int] | None:
        """Return the offset behind what was handed out, and Kafka's end as far as it is known.

        It is called from another thread, so the position is read once: it may be gone at any time.
        """
        place = driver.ensure_aiokafka_TP(tp)
        state = self._ensure_consumer()._subscription.subscription.assignment.state_value(place)
        fetched_to = None if state is None else state._position
        if fetched_to is None or state.lso is None:
            return None
        return self._fetches.position(place, fetched_to), max(state.lso, fetched_to)

    async def position(self, tp: TP) -> int | None:
        """Return the offset behind what was handed out, marks included."""
        offset: int | None = await self.call_thread(self._position, tp)
        return offset

    async def _position(self, tp: TP) -> int:
        place = driver.ensure_aiokafka_TP(tp)
        return self._fetches.position(place, await self._ensure_consumer().position(place))

    async def getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 (Faust's signature)
    ) -> Mapping[TP, list[Any]]:
        """Return what was fetched; a batch is as large as `WholeBatches` makes it.

        Raises:
            KafkaError: aiokafka has ceased to fetch, by an error of its own; it tells nobody else.
        """
        fetching = self._ensure_consumer()._fetcher.error_future
        if fetching.done():
            fetching.result()
        found: Mapping[TP, list[Any]] = await self.call_thread(
            self._fetch_records, self._ensure_consumer(), active_partitions, timeout=timeout
        )
        return found

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Write the group's offsets; a refusal is only logged, for nothing depends on them."""
        places = {
            driver.ensure_aiokafka_TP(tp): driver.OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in self.assignment()
        }
        try:
            await self._ensure_consumer().commit(places)
        except KafkaError as error:
            logger.warning("group offsets were not written, lag looks too large: %s", error)
            return False
        # Faust's watchdog looks here, and complains every second of who never commits.
        self.tp_last_committed_at.update(dict.fromkeys(offsets, time.monotonic()))
        return True
