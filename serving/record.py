"""The bytes of a decision event, put together from parts of which most come back again and again.

The same bytes as `schemas/events.py` makes for the same decision, in two thirds of its time: what
follows the score (source, versions) takes few values, so its bytes are remembered.
"""

import struct
from collections.abc import Mapping
from typing import cast

from tidemill.schemas.encoders import compile_encoder
from tidemill.schemas.encoding import (
    write_boolean,
    write_category,
    write_double,
    write_int,
    write_string,
    write_strings,
    write_text,
    write_timestamp,
)
from tidemill.schemas.events import decision_schema, decision_subject
from tidemill.schemas.loop import Loop
from tidemill.schemas.memorystore import SchemaStore
from tidemill.schemas.wire import Schema
from tidemill.serving.policy import Choice

_NULL = b"\x00"
_SOME = b"\x02"
_WRITE_ACTION = {
    "bool": write_boolean,
    "choice": write_category,
    "float": write_double,
    "ranking": write_strings,
}
_some_double = struct.Struct("<Bd").pack
_REMEMBERED = 1_000  # ends of events: sources x models x propensities

End = tuple[float | None, str, str | None]


class DecisionRecord:
    """Encodes the decisions of one loop; registers their schema when it is made.

    Raises:
        ContractError: an earlier schema of the loop forbids this one.
        BrokerError: the schema store does not answer.
    """

    def __init__(self, loop: Loop, store: SchemaStore) -> None:
        schema = decision_schema(loop)
        fields = cast(list[Mapping[str, object]], schema["fields"])
        self._prefix = store.register(decision_subject(loop), schema)
        self._write_action = _WRITE_ACTION[loop.decision.type]
        self._features = compile_encoder(cast(Schema, fields[-1]["type"]), checked=True)
        self._versions = write_int(loop.policy.version) + write_int(loop.version)
        self._ends: dict[End, bytes] = {}

    def encode(
        self,
        decision_id: bytes,
        at: object,
        entity: str | None,
        choice: Choice,
        source: str,
        model_version: str | None,
        features: Mapping[str, object],
    ) -> bytes:
        """Return the payload for Kafka.

        Args:
            decision_id: in UTF-8, as it is the record's key as well.
            at: an aware datetime, or microseconds since 1970.
            entity: whom or what it is about, if known.
            choice: what was decided.
            source: who decided.
            model_version: which model, if one did.
            features: all of the loop's, by name, as `DecisionReader` has checked them.

        Raises:
            ValueError: a text is not valid Unicode, or *at* is no time of the years 1 to 9999.
        """
        action, score, propensity = choice
        end = (propensity, source, model_version)
        return b"".join(
            (
                self._prefix,
                write_text(decision_id),
                write_timestamp(at),
                _NULL if entity is None else _SOME + write_string(entity),
                self._write_action(action),
                _NULL if score is None else _some_double(2, score),
                self._ends.get(end) or self._end(end),
                self._features(features),
            )
        )

    def _end(self, end: End) -> bytes:
        """Return and remember what stands between score and features."""
        propensity, source, model_version = end
        written = b"".join(
            (
                _NULL if propensity is None else _some_double(2, propensity),
                write_string(source),
                _NULL if model_version is None else _SOME + write_string(model_version),
                self._versions,
            )
        )
        if len(self._ends) >= _REMEMBERED:
            self._ends.clear()
        self._ends[end] = written
        return written
