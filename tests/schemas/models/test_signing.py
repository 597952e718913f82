"""Keys: who may publish a model, and what a person reads when a file is wrong."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tidemill.errors import ConfigError
from tidemill.schemas.models.signing import (
    SIGNING_KEY,
    TRUSTED_KEYS,
    SigningKey,
    TrustedKeys,
    init_keys,
)


def test_a_new_pair_signs_and_verifies(tmp_path: Path) -> None:
    """`tidemill keys init` is all a person does before the first model."""
    signing, trusted = init_keys(tmp_path / "keys")
    key = SigningKey.from_env({SIGNING_KEY: str(signing)})
    keys = TrustedKeys.from_env({TRUSTED_KEYS: str(trusted)})
    assert keys.verify(key.id, key.sign(b"body"), b"body")
    assert not keys.verify(key.id, key.sign(b"body"), b"bodY")
    assert not keys.verify(key.id, b"short", b"body")
    other = SigningKey.generate()
    assert not keys.verify(key.id, other.sign(b"body"), b"body")
    assert not keys.verify(other.id, other.sign(b"body"), b"body")


def test_the_private_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """Whoever reads it can put any model before every worker."""
    signing, _ = init_keys(tmp_path)
    assert signing.stat().st_mode & 0o777 == 0o600
    signing.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read it") as error:
        SigningKey.load(signing)
    assert "chmod 600" in error.value.hint


def test_a_pair_is_never_overwritten(tmp_path: Path) -> None:
    """The lost key would make every published model untrusted at the next restart."""
    signing, _ = init_keys(tmp_path)
    before = signing.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        init_keys(tmp_path)
    assert signing.read_bytes() == before


def test_a_wrong_key_file_says_what_is_wrong(tmp_path: Path) -> None:
    """Each of these is a mistake of a hurried evening."""
    with pytest.raises(ConfigError, match="cannot read the signing key"):
        SigningKey.load(tmp_path / "missing")
    with pytest.raises(ConfigError, match="TIDEMILL_SIGNING_KEY is not set"):
        SigningKey.from_env({})
    path = tmp_path / "key"
    path.write_bytes(b"not a key")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not a private key"):
        SigningKey.load(path)
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(ConfigError, match="another kind than Ed25519"):
        SigningKey.load(path)


@pytest.mark.parametrize("line", ["ed25519 short", "rsa AAAA", "ed25519", "ed25519 !!!!"])
def test_a_wrong_line_of_trusted_keys_is_named(tmp_path: Path, line: str) -> None:
    """A key that is silently passed over is a fleet that silently refuses models."""
    path = tmp_path / "trusted.keys"
    path.write_text(f"# ours\n{line}\n")
    with pytest.raises(ConfigError, match=r"trusted.keys:2"):
        TrustedKeys.load(path)


def test_no_trusted_key_at_all_is_an_error(tmp_path: Path) -> None:
    """Else the worker starts and refuses everything."""
    path = tmp_path / "trusted.keys"
    path.write_text("# nobody\n")
    with pytest.raises(ConfigError, match="holds no key"):
        TrustedKeys.load(path)


def test_trusted_keys_that_others_may_write_are_refused(tmp_path: Path) -> None:
    """Whoever adds a line to it decides for the product."""
    _, trusted = init_keys(tmp_path / "keys")
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    for mode in (0o664, 0o646):
        trusted.chmod(mode)
        with pytest.raises(ConfigError, match="others may write it"):
            TrustedKeys.load(trusted)


def test_a_revoked_key_is_not_believed_any_more(tmp_path: Path) -> None:
    """Without a restart; a file that is wrong meanwhile takes nothing away."""
    old, new = SigningKey.generate(), SigningKey.generate()
    path = tmp_path / "trusted.keys"
    TrustedKeys.of([old.public, new.public]).save(path)
    keys = TrustedKeys.from_env({TRUSTED_KEYS: str(path)})
    assert keys.verify(old.id, old.sign(b"x"), b"x")
    path.unlink()
    TrustedKeys.of([new.public]).save(path)
    assert not keys.verify(old.id, old.sign(b"x"), b"x")
    path.write_text("what is this")
    assert keys.verify(new.id, new.sign(b"x"), b"x")
    assert keys.trouble is not None


def test_two_trusted_keys_let_one_be_replaced(tmp_path: Path) -> None:
    """Keys are rotated by trusting both for a while."""
    old, new = SigningKey.generate(), SigningKey.generate()
    path = tmp_path / "trusted.keys"
    TrustedKeys.of([old.public, new.public]).save(path)
    keys = TrustedKeys.load(path)
    assert keys.verify(old.id, old.sign(b"x"), b"x")
    assert keys.verify(new.id, new.sign(b"x"), b"x")
