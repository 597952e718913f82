"""Feedback of a service on its way to Kafka: its event, and the size that an event may have."""

from time import time_ns

from tidemill.errors import BrokerError, RequestError
from tidemill.schemas.events.schemas import FeedbackEncoder
from tidemill.schemas.logs import topic_of
from tidemill.schemas.loop.definition import Items, Loop
from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.decision.counters import DecisionCounters
from tidemill.serving.decision.event_log import Event, EventLog
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.requests import FeedbackRequest

MAX_EVENT_BYTES = 900_000  # Kafka's default limit for a record is 1 MB, headers included
SHORTER = "send shorter texts and lists"


class FeedbackEvents:
    """Makes the feedback events of one version of one loop, and logs them.

    Args:
        loop: what the feedback is about.
        store: gives the schemas of the events their prefix.
        log: takes the events.
        counters: count what was logged.
    """

    def __init__(
        self, loop: Loop, *, store: SchemaStore, log: EventLog, counters: DecisionCounters
    ) -> None:
        self._encode = FeedbackEncoder(loop, store).encode
        self._write = log.write
        self._counters = counters
        self._topics = {name: topic_of(loop.loop, kind.log) for name, kind in loop.feedback.items()}

    def event(self, request: FeedbackRequest) -> tuple[str, Event]:
        """Return the id of a feedback and its event; nothing is logged yet.

        Raises:
            RequestError: a text of the request is not valid Unicode, or the event is too large.
        """
        feedback_id = request.id or new_id()
        event: dict[str, object] = {
            "id": feedback_id,
            "decision_id": request.decision_id,
            "at": request.at or time_ns() // 1_000,
            "values": request.values,
        }
        if request.item is not None:
            event["item"] = request.item
        payload = self._encode(request.kind, event)
        if len(payload) > MAX_EVENT_BYTES:
            raise too_large(payload, SHORTER)
        return feedback_id, Event(self._topics[request.kind], request.decision_id.encode(), payload)

    def take(self, request: FeedbackRequest) -> str:
        """Log one feedback and return its id.

        Raises:
            RequestError: a text of the request is not valid Unicode, or the event is too large.
            BrokerError: the buffer for the broker is full; the feedback is not logged.
        """
        feedback_id, event = self.event(request)
        if not self._write(*event):
            raise BrokerError(
                "the feedback was not logged: the buffer for Kafka is full",
                hint="send it again later with the same id; check whether the brokers are up",
            )
        self._counters.feedback += 1
        return feedback_id


def too_large(payload: bytes, hint: str) -> RequestError:
    """Return the refusal of a *payload* of more than `MAX_EVENT_BYTES`."""
    what = f"the event would take {len(payload)} bytes, over {MAX_EVENT_BYTES}"
    return RequestError(what, hint=hint)


def shorter(items: Items | None) -> str:
    """Return what makes the event of a decision shorter."""
    if items is None:
        return SHORTER
    less = "send fewer items, or shorter texts"
    return less if items.log == "shown" else f"{less}; `log: shown` logs only what was shown"
