"""The life of one decision in the lake: its records, its example, and the models that learned it.

All tables are read at versions that fit together, so the trace is consistent even while workers
write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import duckdb

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, FEEDBACK
from tidemill.features.sql.bounded import bounded_duckdb
from tidemill.features.sql.positions import KAFKA_OFFSET
from tidemill.features.sql.row_files import files_of
from tidemill.features.sql.states import decision_states, feedback_states
from tidemill.features.sql.views import quoted, schema_name, snapshot, views
from tidemill.monitor.decision_window import DecisionWindow, read_decision_window
from tidemill.monitor.json_values import as_json
from tidemill.monitor.lineage import ListedModel, Use, read_models, uses
from tidemill.schemas.logs import Log, offset_of
from tidemill.schemas.loop.definition import Loop

LakeRow = Mapping[str, object]

_REVISIONS = "example_revisions"
_TRACED = "_traced"  # the schema with the rows of one id; no loop can have that name
_HIDDEN = frozenset(("_state", "event_date", KAFKA_OFFSET))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of the lake: its columns, its state, and the file that holds it."""

    row: LakeRow
    state: str
    file: str | None

    @property
    def place(self) -> tuple[int, int, datetime]:
        """Partition, position (of decisions and examples: the offset) and event time."""
        partition, place, at = (self.row[name] for name in ("partition", "offset", "at"))
        if not (isinstance(partition, int) and isinstance(place, int) and isinstance(at, datetime)):
            raise TypeError(f"no place: {self.row}")
        return partition, place, at

    @property
    def offset(self) -> int:
        """The offset in its topic."""
        return offset_of(self.place[1])

    def to_json(self) -> dict[str, object]:
        """Return the entry as plain values; *place* is its position, as in `feedback_offsets`."""
        added = {"offset": self.offset, "place": self.place[1]}
        return {"state": self.state, "file": self.file, **_plain(self.row), **added}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything the lake holds about one decision id.

    Attributes:
        logs: the logs of the loop.
        decisions: every record of the id, by position, with copies and late ones.
        feedback: every record that names the id.
        examples: every revision of its examples, oldest first; where decisions have items, by
            position.
        window: the window of the last decision that counts; None if there is none.
        made_by: the model that made that decision, if the registry has it.
        uses: how each model used its example.
    """

    loop: str
    id: str
    versions: Mapping[str, int]
    logs: tuple[Log, ...]
    decisions: tuple[Entry, ...]
    feedback: tuple[Entry, ...]
    examples: tuple[Entry, ...]
    window: DecisionWindow | None = None
    made_by: ListedModel | None = None
    uses: tuple[Use, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether the lake has any record of the id."""
        return bool(self.decisions or self.feedback)

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return {
            "loop": self.loop,
            "id": self.id,
            "versions": dict(self.versions),
            "decisions": [entry.to_json() for entry in self.decisions],
            "feedback": [entry.to_json() for entry in self.feedback],
            "examples": [entry.to_json() for entry in self.examples],
            "window": None if self.window is None else self.window.to_json(),
            "made_by": None if self.made_by is None else self.made_by.to_json(),
            "models": [use.to_json() for use in self.uses],
        }


def trace(lake: Lake, loop: Loop, id_: str, *, bucket: timedelta, memory_mb: int = 1_024) -> Trace:
    """Return the trace of the decision *id_*; its parts are empty if the lake has no record of it.

    Args:
        lake: where the tables are.
        loop: the newest version of the loop.
        id_: the id of the decision.
        bucket: the span of event time whose decisions close together.
        memory_mb: the memory limit of the query.

    Raises:
        LakeError: the lake cannot be read.
    """
    versions = snapshot(lake, loop)
    with bounded_duckdb(f"the trace of {id_}", memory_mb=memory_mb) as connection:
        views(lake, [loop], connection, versions={loop.loop: versions})
        rows = _rows(connection, loop, id_)
    found = Trace(
        loop=loop.loop,
        id=id_,
        versions=versions,
        logs=loop.logs,
        decisions=_entries(lake, loop, DECISIONS, rows[DECISIONS], versions),
        feedback=_entries(lake, loop, FEEDBACK, rows[FEEDBACK], versions),
        examples=_entries(lake, loop, EXAMPLES, rows[EXAMPLES], versions),
    )
    counted = [entry for entry in found.decisions if entry.row["verdict"] is None]
    if not counted:
        return found
    last = counted[-1]
    partition, offset, at = last.place
    models = read_models(lake, loop)
    made = [model for model in models if model.version == last.row["model_version"]]
    return replace(
        found,
        window=read_decision_window(lake, loop, versions, partition, at, bucket),
        made_by=made[0] if made else None,
        uses=tuple(uses(lake, loop, models, partition=partition, offset=offset, at=at))
        if found.examples
        else (),
    )


def _rows(connection: duckdb.DuckDBPyConnection, loop: Loop, id_: str) -> dict[str, list[LakeRow]]:
    """Return the rows of one id, by table; those of the logs with their states.

    The views of the states are made over these rows alone; over the whole lake they would be slow.
    """
    schema, named = quoted(schema_name(loop.loop)), {"id": id_}
    keys = {DECISIONS: "id"} | dict.fromkeys((FEEDBACK, EXAMPLES, _REVISIONS), "decision_id")
    connection.execute(f"CREATE SCHEMA {_TRACED}")
    for name, key in keys.items():
        connection.execute(
            f"CREATE TABLE {_TRACED}.{name} AS FROM {schema}.{name} WHERE {key} = $id", named
        )
    for name in ("frontiers", "examined"):
        connection.execute(f"CREATE TABLE {_TRACED}.{name} AS FROM {schema}.{name}")
    states = {
        DECISIONS: decision_states(_TRACED, loop),
        FEEDBACK: feedback_states(_TRACED, loop, revised=True),
    }
    found: dict[str, list[LakeRow]] = {
        name: _fetched(
            connection,
            f"""
            SELECT t.*, s.state AS _state FROM {_TRACED}.{name} t
            JOIN ({query}) s USING ("partition", "offset") ORDER BY "partition", "offset" """,
        )
        for name, query in states.items()
    }
    position = "" if loop.decision.items is None else "position, "
    revisions = f'FROM {_TRACED}.{_REVISIONS} ORDER BY "at", "offset", {position}revision'
    return {**found, EXAMPLES: _fetched(connection, revisions)}


def _fetched(connection: duckdb.DuckDBPyConnection, query: str) -> list[LakeRow]:
    result = connection.execute(query)
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _entries(
    lake: Lake, loop: Loop, name: str, rows: Sequence[LakeRow], versions: Mapping[str, int]
) -> tuple[Entry, ...]:
    entries = [
        Entry(
            row={key: value for key, value in row.items() if key not in _HIDDEN},
            state=str(row.get("_state") or row["state"]),
            file=None,
        )
        for row in rows
    ]
    places = [entry.place for entry in entries]
    files = files_of(lake.table(loop.loop, name), places, versions[name])
    return tuple(replace(entry, file=files.get(entry.place[:2])) for entry in entries)


def _plain(row: LakeRow) -> dict[str, object]:
    return {name: as_json(value) for name, value in row.items()}
