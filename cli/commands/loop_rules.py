"""`tidemill rules set`, `rules list` and `rules revert`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.options import AsJson, LoopName, Who, Why, person

if TYPE_CHECKING:
    from tidemill.deploy.rules.rule_changes import RuleChanges


def set_rules(
    file: Annotated[Path, typer.Argument(metavar="RULES.yaml", help="A file of rules.")],
    why: Why,
    who: Who = None,
) -> None:
    """Put the rules of a file in force, in the place of those that are.

    Workers take them up within a second, without a restart. Conditions are SQL over the features,
    `action` and `score`. It needs TIDEMILL_SIGNING_KEY.
    """
    from tidemill.cli.tables.loops import print_set
    from tidemill.schemas.rules.rule_file import read_rules

    rules = read_rules(file)
    print_set(_changes(rules.loop).set(rules, who=person(who), why=why))


def list_rules(loop: LoopName, as_json: AsJson = False) -> None:
    """Show the rules in force, and every version before with who has set it and why."""
    from tidemill.cli.lakes import open_lake
    from tidemill.cli.tables.loops import print_rules
    from tidemill.deploy.rules.rule_history import RuleHistory

    lake = open_lake()
    lake.loop(loop)  # refuses a name that is not in the lake
    print_rules(loop, RuleHistory(lake, loop).records(), as_json=as_json)


def revert_rules(
    loop: LoopName,
    why: Why,
    version: Annotated[
        int | None,
        typer.Option(min=0, help="The version to return to; 0 for no rules.", show_default=False),
    ] = None,
    who: Who = None,
) -> None:
    """Take back the newest change of the rules, or return to another version.

    What was in force then is a new version. It needs TIDEMILL_SIGNING_KEY.
    """
    from tidemill.cli.tables.loops import print_set

    print_set(_changes(loop).revert(version, who=person(who), why=why))


def _changes(loop: str) -> "RuleChanges":
    from tidemill.cli.lakes import open_lake
    from tidemill.deploy.rules.rule_changes import changes_on_kafka
    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.models.signing import SigningKey

    kafka, key = KafkaConfig.from_env(os.environ), SigningKey.from_env(os.environ)
    lake = open_lake()
    return changes_on_kafka(lake.loop(loop), lake, kafka, key)
