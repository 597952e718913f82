"""A Faust app over `batch://` that stores each batch in SQLite; run as a process to be killed.

Arguments: bootstrap, group, database, topics (comma separated). The database stands where the lake
stands in the product: offsets and rows land in one transaction, compared with what was there.
"""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Iterable, Mapping

import faust
from faust.types import TP

from tidemill.stop_signals import StopSignals
from tidemill.streams.consumer.app import run_app
from tidemill.streams.consumer.batches import FetchedBatch
from tidemill.streams.consumer.topic_ids import TopicIdentity
from tidemill.streams.consumer.transport import BatchSchema, FetchState

SETUP = """
create table if not exists batches (
    topic text, part int, start int, next int, records int, worker int,
    primary key (topic, part, start)
)
"""


class SqliteProgress:
    """The next offset of each partition, stored with the batches themselves."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute(SETUP)

    def next(self, topic: str, partition: int) -> int | None:
        """Return the offset after the last stored batch."""
        query = "select max(next) from batches where topic = ? and part = ?"
        found: int | None = self._db.execute(query, (topic, partition)).fetchone()[0]
        return found

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """Return the next offset of each partition."""
        return {tp: self.next(tp.topic, tp.partition) for tp in tps}

    def attach(self, fetches: FetchState) -> None:
        """Do nothing: the fetched positions are not needed."""

    def committed(self, tp: TP) -> int | None:
        """Return the next offset: every stored batch is committed."""
        return self.next(tp.topic, tp.partition)

    def has_to_wait(self, tp: TP) -> bool:
        """Return False: no partition waits for another."""
        return False

    def is_refused(self, tp: TP) -> bool:
        """Return False: no topic is made anew."""
        return False

    def identify(self, identities: Mapping[str, TopicIdentity | None]) -> None:
        """Do nothing."""

    def ends_too_early(self, tp: TP, end: int) -> None:
        """Do nothing: no topic is made anew in these tests."""
        raise AssertionError(f"{tp} ends at {end}")

    def lost(self, tp: TP, records: int) -> None:
        """Do nothing: no record is deleted in these tests."""
        raise AssertionError(f"{records} records of {tp} are gone")

    def keep(self, batch: FetchedBatch, worker: int) -> bool:
        """Store *batch* if it starts at the end of the last one; False if it was stored already."""
        self._db.execute("begin immediate")
        if (self.next(batch.topic, batch.partition) or 0) != batch.start:
            self._db.execute("rollback")
            return False
        row = (batch.topic, batch.partition, batch.start, batch.next, len(batch), worker)
        self._db.execute("insert into batches values (?, ?, ?, ?, ?, ?)", row)
        self._db.execute("commit")
        return True


def make_app(bootstrap: str, group: str, database: str, topics: list[str]) -> faust.App:
    """Return an app whose one agent stores batches."""
    app = faust.App(
        group,
        broker=f"batch://{bootstrap}",
        broker_producer=f"kafka://{bootstrap}",
        agent_supervisor="mode.supervisors:CrashingSupervisor",
        broker_max_poll_records=2000,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.0,
        broker_commit_interval=0.2,
        stream_wait_empty=True,
        table_standby_replicas=1,
        topic_disable_leader=True,
        web_enabled=False,
        datadir=f"{database}.data",
    )
    progress = SqliteProgress(database)
    app.transport.flow = progress

    async def keep(stream: faust.StreamT) -> None:
        async for batch in stream:
            if batch.session != app.consumer.session:
                continue
            if not progress.keep(batch, id(app)):
                raise RuntimeError(
                    f"{batch.topic}/{batch.partition}: {batch.start} does not follow"
                )

    app.agent(app.topic(*topics, schema=BatchSchema(), maxsize=11))(keep)
    return app


if __name__ == "__main__":
    _, bootstrap, group, database, topics = sys.argv
    stop = threading.Event()
    with StopSignals(stop):
        asyncio.run(run_app(make_app(bootstrap, group, database, topics.split(",")), stop.is_set))
