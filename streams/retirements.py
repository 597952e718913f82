"""When a worker is done with a retired loop: its records are read, and its windows have closed.

Until then the worker goes on with it, so that the decisions made before it was retired get their
examples. Lake and broker say when that is so, hence each worker finds it out alone, after a restart
too.
"""

import logging

from tidemill.errors import TidemillError
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import TABLES, table_of
from tidemill.features.lake.progress_keys import OFFSET
from tidemill.features.sql.views import open_duckdb, schema_name, views
from tidemill.kafka import ANSWER_S, KafkaConfig, TopicEnds
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import Published, joined_topics, versions

logger = logging.getLogger(__name__)


class Retirements:
    """Which retired loops a worker need not run any more.

    Args:
        kafka: where their topics are.
        lake: where their rows are.
    """

    def __init__(self, kafka: KafkaConfig, lake: Lake) -> None:
        self._kafka, self._lake = kafka, lake
        self._over: set[str] = set()  # digests

    def is_over(self, published: Published, name: str) -> bool:
        """Return whether the loop *name* is retired, and nothing of it is open or unread.

        While lake or broker do not answer it is not known to be over.
        """
        known = versions(published, name)
        if not known or not (loop := known[max(known)]).retired:
            return False
        if loop.digest in self._over:
            return True
        try:
            is_over = self._is_read(loop) and not self._has_open_rows(loop)
        except TidemillError as error:
            logger.warning("%s is retired, and still run: %s", name, error)
            return False
        if is_over:
            logger.info("%s is retired, and all its windows have closed: it is dropped", name)
            self._over.add(loop.digest)
        return is_over

    def _is_read(self, loop: Loop) -> bool:
        """Return whether the lake has all records of the topics; a lake without tables has none."""
        for log, topic in joined_topics(loop).items():
            table = table_of(log)
            ends = TopicEnds(self._kafka, topic)
            try:
                read = ends.read(ANSWER_S)
            finally:
                ends.close()
            if not self._lake.has_table(loop.loop, table):
                if any(read):
                    return False
                continue
            names = [OFFSET.for_log(log).key(number) for number in range(len(read))]
            found = self._lake.table(loop.loop, table).progress(names)
            if any(end > (found[name] or 0) for name, end in zip(names, read, strict=True)):
                return False
        return True

    def _has_open_rows(self, loop: Loop) -> bool:
        """Return whether any record of *loop* waits for a window to close."""
        if not all(self._lake.has_table(loop.loop, name) for name in TABLES):
            return False
        schema = f'"{schema_name(loop.loop)}"'
        with open_duckdb(threads=1) as connection:
            views(self._lake, [loop], connection)
            [(is_open,)] = connection.execute(
                f"SELECT EXISTS (FROM {schema}.decision_states WHERE state = 'open')"
                f" OR EXISTS (FROM {schema}.feedback_states WHERE state = 'open')"
            ).fetchall()
        return bool(is_open)
