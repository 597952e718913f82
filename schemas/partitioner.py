"""The partition of a key: murmur2, as Kafka's Java clients and this project's writers choose it.

A decision and its feedback meet because both are in the partition of the decision's id. Clients of
librdkafka choose otherwise unless `partitioner=murmur2_random` is set.
"""

MASK = 0xFFFFFFFF
MIX = 0x5BD1E995
SEED = 0x9747B28C
SIGN = 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's Java clients and librdkafka's murmur2 choose for *key*.

    >>> partition_of(b"foobar", 7)
    0
    """
    size = len(key)
    h = SEED ^ size
    whole = size & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(key[start : start + 4], "little") * MIX & MASK
        k = (k ^ (k >> 24)) * MIX & MASK
        h = (h * MIX & MASK) ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * MIX & MASK
    h = (h ^ (h >> 13)) * MIX & MASK
    h ^= h >> 15
    return (h & SIGN) % partitions
