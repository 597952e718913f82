"""The names of all Kafka topics."""

SCHEMAS = "tidemill.schemas"  # compacted: fingerprint -> Avro schema
LOOPS = "tidemill.loops"  # compacted: loop/version -> definition
MODELS = "tidemill.models"  # compacted: loop/slot -> signed manifest; chunks of payloads
ACKS = "tidemill.acks"  # compacted: worker/loop[/slot] -> what the worker serves or refused
CONTROL = "tidemill.control"  # short messages that wake other processes; never a source of truth
DEAD_LETTERS = "tidemill.dead-letters"  # payloads that could not be read, with reason and source
REKEYED = ".rekeyed"  # the suffix of a topic of feedback that is keyed again


def decisions(loop: str) -> str:
    """Return the topic that carries the decision events of *loop*."""
    return f"{loop}.decisions"


def feedback(loop: str, stream: str | None = None) -> str:
    """Return the topic of the feedback of *loop*: of the kinds with *stream*, or without one."""
    return f"{loop}.feedback" if stream is None else f"{loop}.feedback.{stream}"


def rekeyed(loop: str, stream: str | None = None) -> str:
    """Return the internal topic with the same feedback keyed again, for a loop with `rekey`."""
    return f"{feedback(loop, stream)}{REKEYED}"
