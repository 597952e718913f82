"""The lake: Delta tables of every loop, in a local folder or on S3.

A `Lake` creates tables, opens them, and adds the columns of new loop versions. `tables.py` writes
and reads their rows.
"""

import contextlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Self

import deltalake.exceptions
import polars as pl
from deltalake import DeltaTable

from tidemill.errors import ConfigError, ContractError
from tidemill.features.lake.commits import Commit, CompareAndSwap
from tidemill.features.lake.handles import LakeLocation, unknown
from tidemill.features.lake.layouts import PARTITION, layouts, missing_fields, to_delta, to_polars
from tidemill.features.lake.log_retention import CHECKPOINT_EVERY
from tidemill.features.lake.storage import lake_errors, open_storage, read_document
from tidemill.features.lake.tables import Table
from tidemill.private_folder import PRIVATE
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.durations import parse_duration

__all__ = ["Commit", "CompareAndSwap", "Lake", "LakeConfig", "Table"]

logger = logging.getLogger(__name__)

GROWN = "has-grown.json"
"""A file beside the tables of a loop that says: some rows were written before a column existed. A
second version of a loop says the same."""
_CHECKPOINTS = {"delta.checkpointInterval": str(CHECKPOINT_EVERY)}
_KEEP = timedelta(days=1)
_ATTEMPTS = 5  # two workers may add the same column at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeConfig:
    """Where the lake is and how to reach it."""

    root: str
    storage_options: Mapping[str, str] = field(default_factory=dict)
    keep: timedelta | None = None
    """How long log entries and merged files are kept, and so how far a learner may lag behind. None
    leaves existing tables as they are; new ones get a day."""
    mode: int = PRIVATE
    """The permissions of new folders of a local lake; those that exist stay as they are."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read TIDEMILL_LAKE (a folder or ``s3://bucket/prefix``) and, for S3, the AWS_* names.

        TIDEMILL_LAKE_KEEP is `keep` as a duration, ``6h``; TIDEMILL_LAKE_MODE is `mode`, ``750``.

        Raises:
            ConfigError: TIDEMILL_LAKE is not set or an address of another kind,
                TIDEMILL_LAKE_KEEP is less than an hour, or TIDEMILL_LAKE_MODE is no mode.
        """
        root = env.get("TIDEMILL_LAKE", "")
        if not root:
            raise ConfigError(
                "TIDEMILL_LAKE is not set",
                hint="point it at the lake, say /var/lib/tidemill or s3://bucket/tidemill",
            )
        keep = _keep(env.get("TIDEMILL_LAKE_KEEP", ""))
        if root.startswith("s3://"):
            given = {
                name: value for name, value in env.items() if name.startswith("AWS_") and value
            }
            plain = env.get("AWS_ENDPOINT_URL", "").startswith("http://")
            options = ({"AWS_ALLOW_HTTP": "true"} if plain else {}) | given
            return cls(root=root, storage_options=options, keep=keep)
        if "://" in root:
            raise ConfigError(
                f"TIDEMILL_LAKE is {root}, which is no folder and no s3:// address",
                hint="set it to a folder, or to s3://bucket/prefix",
            )
        return cls(root=root, keep=keep, mode=_mode(env.get("TIDEMILL_LAKE_MODE", "")))


def _keep(text: str) -> timedelta | None:
    """Read TIDEMILL_LAKE_KEEP; None if it is not set."""
    hint = "set it to an hour or more: 6h, 1d"
    if not text:
        return None
    try:
        keep = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"TIDEMILL_LAKE_KEEP: {error}", hint=hint) from error
    if keep < timedelta(hours=1):
        raise ConfigError(f"TIDEMILL_LAKE_KEEP is {text}, less than an hour", hint=hint)
    return keep


def _mode(text: str) -> int:
    """Read TIDEMILL_LAKE_MODE; private if it is not set."""
    if not text:
        return PRIVATE
    if re.fullmatch("0?7[0-7]{2}", text) is None:
        raise ConfigError(
            f"TIDEMILL_LAKE_MODE is {text!r}, no mode of a folder that its owner can use",
            hint="set it to 750 to let the group read the lake, or leave it out",
        )
    return int(text, 8)


class Lake:
    """All tables of all loops below one root."""

    def __init__(self, config: LakeConfig) -> None:
        local = "://" not in config.root
        root = str(Path(config.root).expanduser().absolute()) if local else config.root.rstrip("/")
        self.config = config
        self.root = root
        self.storage_options = dict(config.storage_options)
        self.storage = open_storage(root, self.storage_options, config.mode)
        self._location = LakeLocation(root, self._options(), self.storage)

    def create(self, loop: Loop) -> None:
        """Create the missing tables of *loop*, and the columns that its version adds.

        Raises:
            ContractError: a column would change its type, or the lake has this version with
                another content.
            LakeError: the storage refuses.
        """
        with lake_errors(f"create the tables of {loop.loop}", self.root):
            is_new = self._is_new(loop)
            for name, schema in layouts(loop).items():
                if self.has_table(loop.loop, name):  # refuse before any table is changed
                    missing_fields(name, self.table(loop.loop, name).schema, schema)
            for name, schema in layouts(loop).items():
                self._set_properties(self._create_table(loop.loop, name, schema))
            if is_new:
                definition = loop.canonical.encode()
                self.storage.write(self._path(loop.loop, loop.version), definition)

    def create_table(self, loop_name: str, name: str, schema: pl.Schema) -> Table:
        """Create a table with the columns *schema* beside the ones of *loop_name*, and return it.

        It is partitioned by `event_date` if *schema* has that column, else not at all.
        """
        with lake_errors(f"create {loop_name}/{name}", self.root):
            self._create_table(loop_name, name, schema)
        return self.table(loop_name, name)

    def has_table(self, loop_name: str, name: str) -> bool:
        """Return whether the lake has the table."""
        with lake_errors(f"look for {loop_name}/{name}", self.root):
            return DeltaTable.is_deltatable(self._uri(loop_name, name), self._options())

    def has_version(self, loop_name: str, name: str, version: int) -> bool:
        """Return whether the log of a table has *version*: one small read, and no table is opened.

        The log forgets versions that are older than `LakeConfig.keep`.
        """
        with lake_errors(f"look into the log of {loop_name}/{name}", self.root):
            try:
                self.storage.read(f"{loop_name}/{name}/_delta_log/{version:020d}.json")
            except FileNotFoundError:
                return False
            return True

    def table(self, loop_name: str, name: str) -> Table:
        """Return the table *name* of a loop, at its newest version.

        Raises:
            LakeError: the lake has no such table, or the storage does not answer.
        """
        with lake_errors(f"open {loop_name}/{name}", self.root):
            return Table(self._location, f"{loop_name}/{name}")

    def table_names(self, loop_name: str) -> list[str]:
        """Return the names of the tables of a loop, sorted, whether they can be read or not."""
        with lake_errors(f"list the tables of {loop_name}", self.root):
            names = self.storage.names(loop_name)
            return [name for name in names if self.storage.names(f"{loop_name}/{name}/_delta_log")]

    def loops(self) -> list[str]:
        """Return the names of the loops in this lake, sorted."""
        with lake_errors("list the loops", self.root):
            return [name for name in self.storage.names("") if self._versions(name)]

    def loop(self, loop_name: str) -> Loop:
        """Return the newest version of a loop in this lake.

        Raises:
            LakeError: the lake has no such loop.
        """
        with lake_errors(f"read the definition of {loop_name}", self.root):
            versions = self._versions(loop_name)
            if not versions:
                raise unknown(loop_name, self.root)
            return self._definition(loop_name, max(versions))

    def newest_number(self, loop_name: str) -> int:
        """Return the number of the newest version of a loop in this lake; 0 if it has none."""
        with lake_errors(f"list the versions of {loop_name}", self.root):
            return max(self._versions(loop_name), default=0)

    def definitions(self, loop_name: str) -> list[Loop]:
        """Return every version of a loop in this lake, oldest first.

        Raises:
            LakeError: the lake has no such loop.
        """
        with lake_errors(f"read the definitions of {loop_name}", self.root):
            versions = sorted(self._versions(loop_name))
            if not versions:
                raise unknown(loop_name, self.root)
            return [self._definition(loop_name, version) for version in versions]

    def _definition(self, loop_name: str, version: int) -> Loop:
        return read_document(self.storage, self.root, self._path(loop_name, version), Loop)

    def _versions(self, loop_name: str) -> list[int]:
        names = self.storage.names(loop_name)
        parts = (name.removeprefix("loop-").removesuffix(".json") for name in names)
        return [int(part) for part in parts if part.isdecimal()]

    def _is_new(self, loop: Loop) -> bool:
        """Return whether the lake does not have this version of *loop* yet."""
        if loop.version not in self._versions(loop.loop):
            return True
        if self._definition(loop.loop, loop.version).digest != loop.digest:
            raise ContractError(
                f"the lake has version {loop.version} of {loop.loop} with another content",
                hint="a version never changes: raise `version` in the loop file",
            )
        return False

    def _path(self, loop_name: str, version: int) -> str:
        return f"{loop_name}/loop-{version}.json"

    def _create_table(self, loop_name: str, name: str, schema: pl.Schema) -> DeltaTable:
        uri = self._uri(loop_name, name)
        if not DeltaTable.is_deltatable(uri, self._options()):
            with contextlib.suppress(deltalake.exceptions.DeltaError):  # created by another process
                self.storage.make_folder(f"{loop_name}/{name}")
                return DeltaTable.create(
                    uri,
                    to_delta(schema),
                    partition_by=[PARTITION] if PARTITION in schema else None,
                    configuration=self._retention() | _CHECKPOINTS,
                    storage_options=self._options(),
                )
        for _ in range(_ATTEMPTS):
            table = DeltaTable(uri, storage_options=self._options())
            missing = missing_fields(name, to_polars(table.schema()), schema)
            if not missing:
                break
            self.storage.write(f"{loop_name}/{GROWN}", b"{}")  # before any reader needs it
            with contextlib.suppress(deltalake.exceptions.CommitFailedError):
                table.alter.add_columns(missing)
        return table

    def _set_properties(self, table: DeltaTable) -> None:
        """Set the missing properties of an existing table, and the configured ones."""
        for _ in range(_ATTEMPTS):
            current = table.metadata().configuration
            wanted = _CHECKPOINTS | current | (self._retention() if self.config.keep else {})
            if wanted == current:
                return
            logger.info("%s: set its properties to %s", table.table_uri, wanted)
            with contextlib.suppress(deltalake.exceptions.CommitFailedError):
                table.alter.set_table_properties(wanted)
            table.update_incremental()

    def _retention(self) -> dict[str, str]:
        keep = self.config.keep or _KEEP
        hours = f"interval {-(-keep // timedelta(hours=1))} hours"  # rounded up
        return {"delta.logRetentionDuration": hours, "delta.deletedFileRetentionDuration": hours}

    def _uri(self, loop_name: str, name: str) -> str:
        return f"{self.root}/{loop_name}/{name}"

    def _options(self) -> dict[str, str] | None:
        return self.storage_options or None
