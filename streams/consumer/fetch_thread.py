"""The thread that runs aiokafka's consumer: its settings, and the records it hands out.

It belongs to `transport.py`, and overrides private names of Faust and aiokafka as that does.
"""

import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

import aiokafka
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import WorkerThread

from tidemill.streams.consumer.prefetch import WholeBatches, retain_bytes
from tidemill.streams.consumer.topic_ids import TopicIdentity, topic_identities
from tidemill.streams.consumer.turns import Turns

logger = logging.getLogger(__name__)

FETCH_WAIT_MS = 100  # a longer poll on caught-up partitions would hold back the busy ones


class _Daemon(WorkerThread):  # type: ignore[misc]  # Faust is not typed
    """A daemon thread: it does not keep the process alive if its app cannot be stopped in order."""

    def __init__(self, service: driver.AIOKafkaConsumerThread, **kwargs: Any) -> None:  # noqa: ANN401 (Faust's own)
        super().__init__(service, **kwargs)
        self.daemon = True


class BatchThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is not typed
    """The thread with aiokafka's consumer; fetches are short, and a missing broker is no crash."""

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
        """Start aiokafka's consumer, and make it hand out whole record batches."""
        retain_bytes()
        await super().on_start()
        self._turns = Turns()
        self._fetches = WholeBatches(
            self.consumer.is_batched, self.app.conf.broker_max_poll_records, self._turns
        )
        fetcher = self._ensure_consumer()._fetcher
        fetcher._records = self._fetches
        fetcher._get_actions_per_node = self._turns.choosing(
            fetcher._get_actions_per_node, self._fetches
        )

    def with_records(self) -> set[TP]:
        """Return the partitions that have fetched records, or had many just now."""
        return {TP(*tp) for tp in (*list(self._fetches), *self._turns.busy())}

    async def _seek_wait(
        self, consumer: aiokafka.AIOKafkaConsumer, partitions: Mapping[TP, int]
    ) -> None:
        """Drop fetched records and seek, before another answer can arrive."""
        self._fetches.forget(map(driver.ensure_aiokafka_TP, partitions))
        await super()._seek_wait(consumer, partitions)

    def with_control_batches(self) -> list[TP]:
        """Return the partitions with control batches that no record has followed yet."""
        return [TP(*tp) for tp in self._fetches.with_control_batches()]

    def control_batches(self, tp: TP) -> tuple[int, int] | None:
        """Return the offsets, from and to, of control batches behind the records handed out."""
        return self._fetches.control_batches(driver.ensure_aiokafka_TP(tp))

    def records_end(self, tp: TP) -> int:
        """Return the offset behind the last record that was handed out, 0 after a seek."""
        return self._fetches.records_end(driver.ensure_aiokafka_TP(tp))

    def passed_and_end(self, tp: TP) -> tuple[int, int] | None:
        """Return the offset behind everything handed out, and the end of the log; None if unknown.

        The end is that of Kafka's last answer. Another thread calls this, so the position is read
        only once: it may become None at any time.
        """
        key = driver.ensure_aiokafka_TP(tp)
        state = self._ensure_consumer()._subscription.subscription.assignment.state_value(key)
        fetched_to = None if state is None else state._position
        if fetched_to is None or state.lso is None:
            return None
        return self._fetches.position(key, fetched_to), max(state.lso, fetched_to)

    async def identities(
        self, topics: Collection[str]
    ) -> Mapping[str, TopicIdentity | None] | None:
        """Return the ids of *topics*, asked of a broker; None if none answers."""
        found: Mapping[str, TopicIdentity | None] | None = await self.call_thread(
            topic_identities, self._ensure_consumer(), topics
        )
        return found

    async def positions(self, tps: Collection[TP]) -> dict[TP, int]:
        """Return the offset behind everything handed out of each of *tps*."""
        found: dict[TP, int] = await self.call_thread(self._positions, tps)
        return found

    async def _positions(self, tps: Collection[TP]) -> dict[TP, int]:
        return {tp: await self._position(tp) for tp in tps}

    async def position(self, tp: TP) -> int | None:
        """Return the offset behind everything handed out, control batches included."""
        offset: int | None = await self.call_thread(self._position, tp)
        return offset

    async def _position(self, tp: TP) -> int:
        key = driver.ensure_aiokafka_TP(tp)
        return self._fetches.position(key, await self._ensure_consumer().position(key))

    async def getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 (Faust's signature)
    ) -> Mapping[TP, list[Any]]:
        """Return the fetched records by partition; `WholeBatches` decides how many of each.

        Raises:
            KafkaError: aiokafka has stopped to fetch after an error of its own, which it reports
                nowhere else.
        """
        fetching = self._ensure_consumer()._fetcher.error_future
        if fetching.done():
            fetching.result()
        records: Mapping[TP, list[Any]] = await self.call_thread(
            self._fetch_records, self._ensure_consumer(), active_partitions, timeout=timeout
        )
        return records

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit the group's offsets; a refusal is only logged, because nothing depends on them."""
        group_offsets = {
            driver.ensure_aiokafka_TP(tp): driver.OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in self.assignment()
        }
        try:
            await self._ensure_consumer().commit(group_offsets)
        except KafkaError as error:
            logger.warning("group offsets were not written, lag looks too large: %s", error)
            return False
        # Faust's watchdog reads this, and warns every second about a consumer that never commits.
        self.tp_last_committed_at.update(dict.fromkeys(offsets, time.monotonic()))
        return True
