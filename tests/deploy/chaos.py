"""Random records for the topics that all loops share, as anybody with the right to write could.

None of them is a legal act on a loop that is named: no tombstone or new version of its definition,
no request to close it, no schema of its events, no acknowledgement in its name.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.schemas.loops import minimal

from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import key_of

TOPICS = (topics.LOOPS, topics.SCHEMAS, topics.MODELS, topics.ACKS, topics.CONTROL)
SCRIPTS = ("latin", "日本", "\u202e", "\x1b[31m", "²", "\x00", "../", "' OR 1=1", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """One random record."""

    topic: str
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def noise(
    seed: int, count: int, loops: Sequence[Loop], samples: Mapping[str, Sequence[bytes]]
) -> Iterator[Noise]:
    """Yield *count* records beside *loops*; *samples* are good values by topic, to be broken."""
    draw = random.Random(seed)
    for number in range(count):
        topic = draw.choice(TOPICS)
        headers = tuple(
            (draw.choice(SCRIPTS), draw.randbytes(draw.randrange(9)))
            for _ in range(draw.randrange(3))
        )
        key = _key(draw, topic, number, loops)
        is_named = any(loop.loop.encode() in key for loop in loops)
        value = None if draw.random() < 0.15 else _value(draw, topic, number, loops, samples)
        if is_named and (value is None or _is_legal(topic, value, loops)):
            value = b"junk"
        yield Noise(topic=topic, key=key, value=value, headers=headers)


def _key(draw: random.Random, topic: str, number: int, loops: Sequence[Loop]) -> bytes:
    name = draw.choice(loops).loop
    texts = [
        f"{name}/1",
        f"{name}/{draw.randrange(2, 10**6)}",
        f"{name}/live",
        f"{name}/payload/{'0' * 64}/{draw.randrange(9)}",
        f"close/{name}",
        f"close/{draw.choice(SCRIPTS)}",
        f"{draw.choice(SCRIPTS)}/{draw.choice(SCRIPTS)}",
        f"other-{number}/1",
        f"other-{number % 50}/2",
        "",
        "x" * draw.randrange(1, 5_000),
    ]
    if draw.random() < 0.3:
        return draw.randbytes(draw.randrange(1, 40))
    return draw.choice(texts).encode()


def _value(
    draw: random.Random,
    topic: str,
    number: int,
    loops: Sequence[Loop],
    samples: Mapping[str, Sequence[bytes]],
) -> bytes:
    good = draw.choice([sample for each in samples.values() for sample in each])
    other = f"other-{number % 50}"
    makers: list[Callable[[], bytes]] = [
        lambda: draw.randbytes(draw.randrange(200)),
        lambda: _flipped(draw, good),
        lambda: good[: draw.randrange(len(good))],
        lambda: minimal(loop=f"other-{number}").canonical.encode(),
        lambda: minimal(loop=other, version=2, label={"sql": "nonsense(1)"}).canonical.encode(),
        lambda: _of_another_release(draw.choice(loops), other),
        lambda: b"[" * draw.randrange(100_000),
        lambda: b"9" * draw.randrange(1, 50_000),
        lambda: json.dumps({draw.choice(SCRIPTS): draw.choice(SCRIPTS)}).encode(),
        lambda: b"null",
        lambda: b'{"until": "9999-12-31T23:59:59+00:00"}',
        lambda: b"\xff\xfe\x00",
    ]
    return draw.choice(makers)()


def _flipped(draw: random.Random, good: bytes) -> bytes:
    broken = bytearray(good)
    for _ in range(draw.randrange(1, 4)):
        broken[draw.randrange(len(broken))] = draw.randrange(256)
    return bytes(broken)


def _of_another_release(loop: Loop, name: str) -> bytes:
    return json.dumps(json.loads(loop.canonical) | {"format": 2, "loop": name}).encode()


def _is_legal(topic: str, value: bytes, loops: Sequence[Loop]) -> bool:
    """Return whether *value* could be a legal act on one of *loops*."""
    return topic == topics.CONTROL or any(loop.loop.encode() in value for loop in loops)


def legal_keys(records: Sequence[Noise]) -> set[bytes]:
    """Return the keys of the definitions among *records* that are legal."""
    found = {}
    for record in records:
        if record.topic == topics.LOOPS:
            found[record.key] = record.value
    legal = set()
    for key, value in found.items():
        try:
            loop = Loop.model_validate_json(value or b"")
        except ValueError:
            continue
        if key == key_of(loop):
            legal.add(key)
    return legal
