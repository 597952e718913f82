"""The names of all Kafka topics, in one place."""

SCHEMAS = "tidemill.schemas"  # compacted: fingerprint -> Avro schema
LOOPS = "tidemill.loops"  # compacted: loop/version -> definition
MODELS = "tidemill.models"  # compacted: loop/slot -> signed announcement, and payload chunks
ACKS = "tidemill.acks"  # compacted: worker/loop -> what the worker serves or refused
CONTROL = "tidemill.control"  # short messages that wake others up, never a source of truth
DEAD_LETTERS = "tidemill.dead-letters"  # payloads that could not be read, with reason and source
REKEYED = ".rekeyed"  # what ends the name of a topic of feedback that was keyed anew


def decisions(loop: str) -> str:
    """Return the topic that carries the decision events of *loop*."""
    return f"{loop}.decisions"


def feedback(loop: str, stream: str | None = None) -> str:
    """Return the topic of the feedback of *loop*: of the kinds that say *stream*, or say none."""
    return f"{loop}.feedback" if stream is None else f"{loop}.feedback.{stream}"


def rekeyed(loop: str, stream: str | None = None) -> str:
    """Return the internal topic with that feedback of *loop* keyed anew, if it says `rekey`."""
    return f"{feedback(loop, stream)}{REKEYED}"
