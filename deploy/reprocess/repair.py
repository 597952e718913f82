"""Run a repair: the lost rows of a lake are made again from the topics, and put back.

It may run beside workers: rows are put back by commits that compare what was put back before. Where
the newest commit of `examples` was taken away, a worker that owns the partition starts again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from tidemill.errors import ContractError, LakeError
from tidemill.features.audit.expected import lost_examples
from tidemill.features.audit.spans import AuditSpan, read_spans
from tidemill.features.lake.damage import lost_files
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, FEEDBACK, fitted, table_of, undated
from tidemill.features.lake.progress_keys import (
    CLUSTER_ID,
    DEAD_LETTERS,
    GAPS,
    OFFSET,
    TOPIC_ID,
    ProgressName,
)
from tidemill.features.lake.table_repair import put_back, restored_rows, surviving_rows, take_out
from tidemill.features.sql.views import snapshot
from tidemill.kafka import KafkaConfig, Record, read_range
from tidemill.monitor.lag.log_ends import broker_logs
from tidemill.schemas.logs import Log, first_position
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import joined_topics
from tidemill.schemas.registry.choose import schema_store
from tidemill.streams.consumer.topic_ids import read_identities
from tidemill.streams.deadletters.reader import DeadLetterReader, Wanted
from tidemill.streams.reprocess.lost_commit import close_again
from tidemill.streams.reprocess.lost_rows import KNOWN, LostRows, RepairLimits, idle_advances
from tidemill.streams.runtime.prepared_loop import PreparedLoop
from tidemill.streams.runtime.worker import StreamsWorkerConfig

_DEAD_LETTERS_S = 10.0

History = Sequence[tuple[PreparedLoop, Sequence[AuditSpan]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What a repair has done: rows put back, and lost files taken out of the log, by table."""

    loop: str
    rows: Mapping[str, int]
    files: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """Return it as plain values for JSON."""
        return {"loop": self.loop, "rows": dict(self.rows), "files": dict(self.files)}


def run_repair(worker: StreamsWorkerConfig, name: str, limits: RepairLimits) -> Repaired:
    """Put the lost rows of loop *name* back into the lake of *worker*.

    Raises:
        LakeError: a table cannot be opened, or Kafka no longer has all of the lost rows; then
            nothing was changed in that table.
        ContractError: a topic is not the one that the lake has read.
        BrokerError: Kafka does not answer.
    """
    lake = Lake(worker.lake)
    definitions = lake.definitions(name)
    newest = definitions[-1]
    store = schema_store(worker.kafka, worker.env)
    versions = snapshot(lake, newest)
    spans = read_spans(lake, definitions, versions)
    history = [(PreparedLoop.of(loop, store), each) for loop, each in spans]
    records = KafkaRecords(worker.kafka, newest)
    _check_topics(worker.kafka, lake, newest)
    rows, files = dict[str, int](), dict[str, int]()
    for table in (DECISIONS, FEEDBACK):
        rows[table] = _repair_raw(lake, newest, table, history, records, limits)
        files[table] = len(take_out(lake, lake.table(name, table)))
    examples = lake.table(name, EXAMPLES)
    files[EXAMPLES] = len(take_out(lake, examples))
    prepared = PreparedLoop.of(newest, store)
    closed = close_again(lake, prepared, limits.partitions, worker.scratch)
    rows[EXAMPLES] = closed + _repair_examples(lake, newest, examples, limits)
    return Repaired(loop=name, rows=rows, files=files)


def _repair_examples(lake: Lake, loop: Loop, examples: Table, limits: RepairLimits) -> int:
    """Put the lost examples back, which follow from the raw tables; return how many."""
    known = restored_rows(examples, range(loop.partitions))
    lost = lost_examples(lake, loop.loop, limits.partitions)
    put_back(examples, lost, known)
    return lost.height


@dataclass(slots=True)
class KafkaRecords:
    """The logs of a loop in Kafka."""

    kafka: KafkaConfig
    loop: Loop
    _starts: Mapping[tuple[Log, int], int] | None = None
    _dead: dict[tuple[str, int], set[int]] | None = field(default=None)

    def start(self, log: Log, partition: int) -> int:
        """Return the first offset that is there."""
        if self._starts is None:
            self._starts = broker_logs(self.kafka, self.loop).starts
        return self._starts[log, partition]

    def read(self, log: Log, partition: int, first: int, behind: int) -> list[Record]:
        """Return the records from *first* to before *behind*."""
        return read_range(self.kafka, joined_topics(self.loop)[log], partition, first, behind)

    def dead(self, log: Log, partition: int) -> Collection[int]:
        """Return the offsets of dead letters."""
        if self._dead is None:
            self._dead = {}
            reader = DeadLetterReader(self.kafka, timeout_s=_DEAD_LETTERS_S)
            for letter in reader.read(Wanted(loop=self.loop.loop)):
                self._dead.setdefault((letter.topic, letter.partition), set()).add(letter.offset)
        return self._dead.get((joined_topics(self.loop)[log], partition), ())


def _repair_raw(
    lake: Lake,
    loop: Loop,
    name: str,
    history: History,
    records: KafkaRecords,
    limits: RepairLimits,
) -> int:
    """Put the lost rows of a raw table back; return how many."""
    table = lake.table(loop.loop, name)
    put = restored_rows(table, range(loop.partitions))
    known = surviving_rows(lake, table, ["id", *KNOWN])
    advances = idle_advances(lake, loop.loop)
    schema = undated(table.schema)
    found = [pl.DataFrame(schema=schema)]
    for log in (log for log in loop.logs if table_of(log) == name):
        lost = LostRows(
            history=history,
            log=log,
            known=known,
            records=records,
            advances=advances.get(log, {}),
        )
        found += [fitted(rows, schema) for rows in lost.made(limits)]
    rows = pl.concat(found)
    if limits.is_whole:
        _check_complete(lake, table, loop, (known, rows), limits)
    put_back(table, rows, put)
    return rows.height


def _missing(table: Table, loop: Loop, log: Log, rows: pl.DataFrame, partition: int) -> int:
    """Return how many rows of a log are missing after the first of *rows*, as its numbers tell."""
    numbers = table.progress(name.for_log(log).key(partition) for name in _COUNTED)
    read, dead, gaps = (numbers[name.for_log(log).key(partition)] or 0 for name in _COUNTED)
    first = first_position(log)
    ours = pl.col("offset").is_between(first, first + read, closed="left")
    here = rows.filter((pl.col("partition") == partition) & ours)["offset"] - first
    begin = here.min()
    return read - begin - len(here) - dead - gaps if isinstance(begin, int) else 0


def _check_complete(
    lake: Lake, table: Table, loop: Loop, rows: Sequence[pl.DataFrame], limits: RepairLimits
) -> None:
    """Check that surviving rows and those made again, the first and second of *rows*, are all.

    Raises:
        LakeError: some are neither in the lake nor in Kafka.
    """
    both = pl.concat([each.select("partition", "offset") for each in rows])
    logs = [log for log in loop.logs if f"{loop.loop}/{table_of(log)}" == table.folder]
    missing = sum(
        max(0, _missing(table, loop, log, both, number))
        for log in logs
        for number in filter(limits.has, range(loop.partitions))
    )
    if limits.partitions is None:
        held = sum(file.rows for file in lost_files(lake, table))
        missing = max(missing, held - rows[1].height)
    if missing:
        raise LakeError(
            f"Kafka no longer has {missing:,} of the records whose rows {table.folder} has lost",
            hint="put the lost files back from a backup; without one, `tidemill lake replay "
            f"{loop.loop} --into OTHER --partial` makes what Kafka still has",
        )


_COUNTED: tuple[ProgressName, ...] = (OFFSET, DEAD_LETTERS, GAPS)


def _check_topics(kafka: KafkaConfig, lake: Lake, loop: Loop) -> None:
    topics = joined_topics(loop)
    identities = read_identities(kafka, sorted(topics.values()))
    for log, topic in topics.items():
        names = [TOPIC_ID.for_log(log), CLUSTER_ID.for_log(log)]
        keys = [name.key(number) for name in names for number in range(loop.partitions)]
        known = set(lake.table(loop.loop, table_of(log)).progress(keys).values()) - {None}
        identity = identities.get(topic)
        if identity is not None and not known <= {identity.number, identity.cluster_number}:
            raise ContractError(
                f"{topic} is not the topic that the lake has read: its id is {identity.id} now",
                hint="put the lost files back from a backup: these rows are not in Kafka",
            )
