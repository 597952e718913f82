"""Records of models that no worker may serve, each made with the key that the worker trusts."""

from tests.serving.models import SIGNATURE, manifest, records, text

from tidemill.schemas.models.signing import SigningKey

PAYLOAD = text().encode()


def forged(key: SigningKey) -> list[tuple[bytes, bytes | None]]:
    """Signed by somebody else."""
    del key
    return records(SigningKey.generate(), PAYLOAD, manifest(PAYLOAD, 2))


def tampered(key: SigningKey) -> list[tuple[bytes, bytes | None]]:
    """One bit of the record changed on its way."""
    ((name, value),) = records(key, PAYLOAD, manifest(PAYLOAD, 2))
    assert value is not None
    place = value.index(b"lightgbm-2")
    return [(name, value[:place] + b"L" + value[place + 1 :])]


def truncated(key: SigningKey) -> list[tuple[bytes, bytes | None]]:
    """The end of the record is missing."""
    ((name, value),) = records(key, PAYLOAD, manifest(PAYLOAD, 2))
    assert value is not None
    return [(name, value[:-100])]


def swapped_payload(key: SigningKey) -> list[tuple[bytes, bytes | None]]:
    """A genuine manifest with the payload of another model."""
    other = text(5).encode()
    ((name, value),) = records(key, PAYLOAD, manifest(PAYLOAD, 2))
    assert value is not None
    return [(name, value.replace(PAYLOAD, other + b" " * (len(PAYLOAD) - len(other))))]


def misplaced(key: SigningKey) -> list[tuple[bytes, bytes | None]]:
    """A genuine manifest of another loop's model."""
    said = manifest(PAYLOAD, 2, loop="other")
    ((_, value),) = records(key, PAYLOAD, said)
    return [(b"banner/live", value)]


def replayed(key: SigningKey) -> list[tuple[bytes, bytes | None]]:
    """A genuine manifest from before."""
    return records(key, PAYLOAD, manifest(PAYLOAD, 0))


def hostile(key: SigningKey) -> list[tuple[bytes, bytes | None]]:
    """A trusted key signs a text that would crash the library."""
    broken = PAYLOAD.replace(b"num_leaves=15", b"num_leaves=99999999", 1)
    return records(key, broken, manifest(broken, 2))


def mismatching(key: SigningKey) -> list[tuple[bytes, bytes | None]]:
    """A model of other features."""
    other = type(SIGNATURE)(SIGNATURE.fields[1:])
    said = manifest(PAYLOAD, 2, features=other.to_json(), features_digest=other.digest)
    return records(key, PAYLOAD, said)


def junk(key: SigningKey) -> list[tuple[bytes, bytes | None]]:
    """Random bytes."""
    del key
    return [(b"banner/live", b"\x00" * 40), (b"banner/live", b"")]


BAD = [
    forged,
    tampered,
    truncated,
    swapped_payload,
    misplaced,
    replayed,
    hostile,
    mismatching,
    junk,
]
