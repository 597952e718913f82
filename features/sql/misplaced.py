"""The partition that an id belongs to, as SQL: Kafka's murmur2 without a function of Python.

It is written out as one expression, so that views work in any connection.
"""

from tidemill.schemas.partitioner import MASK, MIX, SEED, SIGN


def partition_sql(column: str, partitions: int) -> str:
    """Return an expression for the partition of the ids in *column*, of *partitions*.

    ``t`` is the id as hexadecimal digits, eight for each word of four bytes.
    """
    mixed = _times(f"xor({_times('k')}, {_times('k')} >> 24)")
    first = f"xor({SEED}::UBIGINT, (length(t) // 2)::UBIGINT)"
    words = f"list_transform(range(0, length(t) // 8), lambda i: {_word('i', 4)})"
    hashed = (
        f"list_reduce(list_concat([{first}], {words}), lambda h, k: xor({_times('h')}, {mixed}))"
    )
    rest = " ".join(f"WHEN {2 * size} THEN {_word('length(t) // 8', size)}" for size in (1, 2, 3))
    ended = _times(f"xor(h, CASE length(t) % 8 {rest} END)")
    with_rest = f"lambda h: CASE WHEN length(t) % 8 = 0 THEN h ELSE {ended} END"
    last = f"lambda h: {_times('xor(h, h >> 13)')}"
    partition = f"lambda h: (xor(h, h >> 15) & {SIGN}) % {partitions}"
    chain = f"list_transform([{hashed}], {with_rest})"
    for step in (last, partition):
        chain = f"list_transform({chain}, {step})"
    return f"list_transform([hex(encode({column}))], lambda t: {chain}[1])[1]"


def unmet_sql(feedback: str, partitions: int) -> str:
    """Return an expression for the state of rows of *feedback* whose decision is not known."""
    if partitions == 1:
        return "'unmatched'"
    home = partition_sql(f"{feedback}.decision_id", partitions)
    return f"""CASE WHEN {home} = {feedback}."partition" THEN 'unmatched' ELSE 'misplaced' END"""


def _times(value: str) -> str:
    """Return *value* times murmur2's constant, as 32 bits."""
    return f"(({value}) * {MIX}::UBIGINT & {MASK}::UBIGINT)"


def _word(index: str, size: int) -> str:
    """Return the first *size* bytes of word number *index* as a number, the lowest byte first."""
    digits = (f"substr(t, 8 * ({index}) + {2 * byte + 1}, 2)" for byte in reversed(range(size)))
    return f"('0x' || {' || '.join(digits)})::UBIGINT"
