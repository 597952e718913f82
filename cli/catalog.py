"""The catalog of commands: what each is called, where `--help` lists it, and its function.

The catalog is data alone, so `tidemill --help` imports no command. Longer than 300 lines
because it is a list.
"""

from dataclasses import dataclass
from typing import Literal

Group = Literal["Start", "Run", "Look", "Things", "Admin"]
"""The panels of `tidemill --help`, from top to bottom."""

NOUNS = {
    "loop": "Compare and retire loops, and print the JSON Schema of their files.",
    "model": "List the models of a loop, and choose the live one.",
    "rules": "Set rules that hold after the policy, and take them back.",
    "lake": "Merge small files, make examples again, close windows.",
    "dead-letters": "Show the records that could not be read, or send them again.",
}
"""The things that have commands of their own, `tidemill NOUN VERB`, and their line in `--help`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        name: what a person types: a word, or one of `NOUNS` and a verb.
        group: the panel of `--help` that lists it.
        module: the module of `cli/commands/` that has the function.
        function: carries the command out; its docstring is the command's own help.
        summary: its line in the list of commands.
        alias: its former name, which still works and is hidden from `--help`.
    """

    name: str
    group: Group
    module: str
    function: str
    summary: str
    alias: str | None = None

    @property
    def words(self) -> list[str]:
        """The words of its name."""
        return self.name.split()

    def is_called_by(self, words: list[str]) -> bool:
        """Return whether *words*, the first two of a command line, call this command."""
        return words[: len(self.words)] == self.words or words[:1] == [self.alias]


COMMANDS: tuple[Command, ...] = (
    Command(
        name="demo",
        group="Start",
        module="demo",
        function="demo",
        summary="Play a year of real flights through the whole loop.",
    ),
    Command(
        name="init",
        group="Start",
        module="loop",
        function="init",
        summary="Write a loop file to start from, and its JSON Schema.",
    ),
    Command(
        name="check",
        group="Start",
        module="loop",
        function="check",
        summary="Say what a loop file defines, or what is wrong with it.",
    ),
    Command(
        name="try",
        group="Start",
        module="sandbox",
        function="try_",
        summary="Play a history through a loop without Kafka.",
    ),
    Command(
        name="publish",
        group="Start",
        module="loop",
        function="publish",
        summary="Check a loop file and publish it.",
    ),
    Command(
        name="up",
        group="Start",
        module="demo",
        function="up",
        summary="Run all processes of loops on this machine.",
    ),
    Command(
        name="serve",
        group="Run",
        module="serve",
        function="serve",
        summary="Serve decisions over HTTP.",
    ),
    Command(
        name="worker",
        group="Run",
        module="worker",
        function="worker",
        summary="Join decisions with their feedback, and write the lake.",
    ),
    Command(
        name="train",
        group="Run",
        module="train",
        function="train",
        summary="Train the models of a loop as its examples come in.",
    ),
    Command(
        name="monitor",
        group="Run",
        module="monitor",
        function="monitor",
        summary="Measure lag, freshness and ledger; serve them over HTTP.",
    ),
    Command(
        name="kafka",
        group="Run",
        module="kafka",
        function="kafka",
        summary="Find a Kafka or start one, and run it until Ctrl-C.",
    ),
    Command(
        name="trace",
        group="Look",
        module="trace",
        function="trace",
        summary="Show the whole life of one decision.",
    ),
    Command(
        name="explain",
        group="Look",
        module="trace",
        function="explain",
        summary="Make a decision again, and show what each feature added.",
    ),
    Command(
        name="sql",
        group="Look",
        module="lake",
        function="sql",
        summary="Query the lake in SQL.",
    ),
    Command(
        name="lag",
        group="Look",
        module="kafka",
        function="lag",
        summary="Show how far consumer groups are behind.",
    ),
    Command(
        name="ledger",
        group="Look",
        module="lake",
        function="ledger",
        summary="Show that every record read is accounted for.",
    ),
    Command(
        name="audit",
        group="Look",
        module="lake",
        function="audit",
        summary="Compute closed windows anew, and compare.",
    ),
    Command(
        name="loop diff",
        group="Things",
        module="loop",
        function="diff",
        summary="Show what changed between two versions of a loop.",
        alias="diff",
    ),
    Command(
        name="loop contracts",
        group="Things",
        module="loop",
        function="contracts",
        summary="Print the Avro schemas of the events of a loop.",
    ),
    Command(
        name="loop retire",
        group="Things",
        module="loop",
        function="retire",
        summary="End a loop: it decides no more, and its windows close.",
    ),
    Command(
        name="loop schema",
        group="Things",
        module="loop",
        function="schema",
        summary="Print the JSON Schema of loop files, for editors.",
        alias="schema",
    ),
    Command(
        name="model list",
        group="Things",
        module="train",
        function="models",
        summary="Show every model that a loop has made, and why it is live or not.",
        alias="models",
    ),
    Command(
        name="model show",
        group="Things",
        module="train",
        function="show",
        summary="Show the record of one model.",
    ),
    Command(
        name="model promote",
        group="Things",
        module="train",
        function="promote",
        summary="Let a model decide from now on.",
    ),
    Command(
        name="model rollback",
        group="Things",
        module="train",
        function="rollback",
        summary="Let a former model decide again.",
    ),
    Command(
        name="model pin",
        group="Things",
        module="train",
        function="pin",
        summary="Keep the trainer from changing what is live.",
    ),
    Command(
        name="model freeze",
        group="Things",
        module="train",
        function="freeze",
        summary="Keep a loop from changing and from training.",
    ),
    Command(
        name="model release",
        group="Things",
        module="train",
        function="release",
        summary="End pin and freeze.",
    ),
    Command(
        name="model importance",
        group="Things",
        module="train",
        function="importance",
        summary="Show how much a model needs each feature.",
    ),
    Command(
        name="model restore",
        group="Things",
        module="train",
        function="restore",
        summary="Restore the models of a lake that has lost them.",
    ),
    Command(
        name="rules set",
        group="Things",
        module="loop_rules",
        function="set_rules",
        summary="Put the rules of a file in force.",
    ),
    Command(
        name="rules list",
        group="Things",
        module="loop_rules",
        function="list_rules",
        summary="Show the rules in force, and those before.",
    ),
    Command(
        name="rules revert",
        group="Things",
        module="loop_rules",
        function="revert_rules",
        summary="Take back a change of the rules.",
    ),
    Command(
        name="lake compact",
        group="Things",
        module="lake",
        function="compact",
        summary="Merge the small files of the lake.",
        alias="compact",
    ),
    Command(
        name="lake backfill",
        group="Things",
        module="reprocess",
        function="backfill",
        summary="Make examples again, with another window or label.",
        alias="backfill",
    ),
    Command(
        name="lake replay",
        group="Things",
        module="reprocess",
        function="replay",
        summary="Read the topics once more, into a lake of its own.",
        alias="replay",
    ),
    Command(
        name="lake repair",
        group="Things",
        module="lake",
        function="repair",
        summary="Put lost rows back into the lake, from the topics.",
    ),
    Command(
        name="lake accept-topic",
        group="Things",
        module="lake",
        function="accept_topic",
        summary="Go on with topics that were restored with their offsets.",
    ),
    Command(
        name="lake close",
        group="Things",
        module="worker",
        function="close",
        summary="Close the windows of a loop whose past events have all been sent.",
        alias="close",
    ),
    Command(
        name="dead-letters show",
        group="Things",
        module="deadletters",
        function="show",
        summary="Show what could not be read, and why.",
    ),
    Command(
        name="dead-letters replay",
        group="Things",
        module="deadletters",
        function="replay",
        summary="Send back to their topics the records that can be read by now.",
    ),
    Command(
        name="keys",
        group="Admin",
        module="train",
        function="keys",
        summary="Make the keys that models are signed with.",
    ),
    Command(
        name="token",
        group="Admin",
        module="serve",
        function="token",
        summary="Make a token for callers of the HTTP API.",
    ),
)
