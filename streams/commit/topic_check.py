"""The check that a log is still the topic that the lake has read from, by the ids of Kafka.

A topic that was deleted and made anew has other records at the same offsets. Its id tells; the lake
keeps the id with the offset it belongs to, in the same commit. A lake without ids adopts the first.
"""

from tidemill.errors import ContractError
from tidemill.features.lake.progress_keys import CLUSTER_ID, TOPIC_ID
from tidemill.schemas.logs import Log
from tidemill.streams.commit.leases import Lease
from tidemill.streams.consumer.topic_ids import TopicIdentity


def check_identity(loop: str, lease: Lease, log: Log, identity: TopicIdentity) -> bool:
    """Compare *identity* with that of the topic that *lease* has read *log* from.

    Return whether it is adopted: the lake has read something, and has no ids.

    Raises:
        ContractError: it is another topic, or the topic of another cluster.
    """
    topic, cluster = lease.of(log, TOPIC_ID), lease.of(log, CLUSTER_ID)
    offset = lease.offset(log)
    if topic is None or cluster is None:
        return offset > 0
    if topic == identity.number and cluster == identity.cluster_number:
        return False
    what = (
        f"was deleted and made anew: its id is {identity.id} now"
        if cluster == identity.cluster_number
        else f"is a topic of another cluster, {identity.cluster}"
    )
    raise ContractError(
        f"{identity.topic} {what}, and the lake has read another topic up to offset {offset} of "
        f"partition {lease.partition}: records before that would never be read",
        hint=_hint(loop),
    )


def made_anew(loop: str, before: TopicIdentity, now: TopicIdentity) -> ContractError:
    """Return the error for a topic that had another id when this process saw it first."""
    return ContractError(
        f"{now.topic} was deleted and made anew while it was read: its id was {before.id}, and is "
        f"{now.id} now",
        hint=_hint(loop),
    )


def ended_early(loop: str, topic: str, partition: int, end: int, read: int | None) -> ContractError:
    """Return the error for a partition that ends before what the lake has read."""
    return ContractError(
        f"{topic}/{partition} ends at {end}, the lake has read up to {read}: the topic was made "
        "anew or truncated",
        hint=_hint(loop),
    )


def _hint(loop: str) -> str:
    return (
        f"read the topics from their first record into a lake of its own: `tidemill lake replay "
        f"{loop} --into LAKE`; or, if the topic was restored with its offsets, accept it: "
        f"`tidemill lake accept-topic {loop}`, then start the worker again"
    )
