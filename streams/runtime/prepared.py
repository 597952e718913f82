"""What is made of a loop once and then serves all its partitions: rules, label, decoders.

To compile a label takes some 20 ms, to own a partition far less; so it is not done anew for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.choose import SchemaStore
from tidemill.streams.join.labels import Labels
from tidemill.streams.join.rules import JoinRules


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedLoop:
    """A loop, ready to be worked on."""

    loop: Loop
    rules: JoinRules
    labels: Labels
    decoders: Mapping[Log, EventDecoder]

    @classmethod
    def of(cls, loop: Loop, store: SchemaStore) -> Self:
        """Return *loop* with all that is made of it; events are read by the schemas of *store*.

        Raises:
            LoopError: the label is wrong.
        """
        rules = JoinRules.of(loop)
        return cls(
            loop=loop,
            rules=rules,
            labels=Labels(rules.label_sql, label_type=rules.label_type),
            decoders={log: EventDecoder(loop, log, store) for log in loop.logs},
        )
