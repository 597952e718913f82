"""A loop prepared for work: rules, label and decoders, made once for all of its partitions.

Compiling a label takes some 20 ms, which is far more than the rest of a claim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.choose import SchemaStore
from tidemill.streams.join.labels import LabelEngine, Labels
from tidemill.streams.join.rules import JoinRules


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedLoop:
    """A loop with everything that all of its partitions share."""

    loop: Loop
    rules: JoinRules
    labels: Labels
    decoders: Mapping[Log, EventDecoder]

    @classmethod
    def of(cls, loop: Loop, store: SchemaStore, engine: LabelEngine | None = None) -> Self:
        """Return *loop* prepared; the schemas of events are read from *store*.

        Loops that are given the same *engine* share it.

        Raises:
            LoopError: the label is wrong.
        """
        rules = JoinRules.of(loop)
        return cls(
            loop=loop,
            rules=rules,
            labels=Labels(rules.label, engine),
            decoders={log: EventDecoder(loop, log, store) for log in loop.logs},
        )
