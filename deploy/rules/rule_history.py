"""Every version of the rules of a loop: the Delta table ``rules``.

A commit moves the number of the newest version by compare-and-swap, so two people who change the
rules at the same time do not overwrite each other.
"""

import polars as pl

from tidemill.errors import FencedError, RequestError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.progress_keys import RULES_NUMBER
from tidemill.schemas.rules.rule_record import RuleRecord, parse_rules, rules_key

RULES = "rules"
_SCHEMA = pl.Schema(
    {
        "version": pl.Int32(),
        "at": pl.Datetime("us", "UTC"),
        "who": pl.String(),
        "why": pl.String(),
        "record": pl.Binary(),
    }
)


class RuleHistory:
    """The versions of the rules of one loop."""

    def __init__(self, lake: Lake, loop_name: str) -> None:
        self._lake, self._loop_name = lake, loop_name

    def records(self) -> list[RuleRecord]:
        """Return all versions, the oldest first.

        Raises:
            LakeError: the lake cannot be read.
            LoopError: a row cannot be read by this release.
        """
        if not self._lake.has_table(self._loop_name, RULES):
            return []
        table = self._lake.table(self._loop_name, RULES)
        rows = table.read(["version", "record"]).sort("version")
        key = rules_key(self._loop_name)
        return [parse_rules(key, value) for value in rows.get_column("record").to_list()]

    def add(self, record: RuleRecord, after: int | None) -> None:
        """Add *record*, if the newest version is *after*; None for the first one.

        Raises:
            RequestError: somebody else has changed the rules meanwhile; nothing was added.
            LakeError: the lake refuses; nothing was added.
        """
        row = {
            "version": record.version,
            "at": record.at,
            "who": record.who,
            "why": record.why,
            "record": record.to_json(),
        }
        table = self._lake.create_table(self._loop_name, RULES, _SCHEMA)
        try:
            table.append(
                pl.DataFrame([row], schema=_SCHEMA),
                swaps=[CompareAndSwap(RULES_NUMBER, after, record.version)],
            )
        except FencedError as error:
            raise RequestError(
                f"the rules of {self._loop_name} were changed meanwhile",
                hint=f"look at them with tidemill rules list {self._loop_name}, and try again",
            ) from error
