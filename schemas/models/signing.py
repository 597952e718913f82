"""Who may publish models: Ed25519 keys, their files, and signatures of bytes.

A trainer has one `SigningKey`; a worker has the public keys it trusts as `TrustedKeys`.
"""

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tidemill.errors import ConfigError
from tidemill.private_folder import make_private
from tidemill.watched_file import WatchedFile, refuse_others_writing

SIGNING_KEY = "TIDEMILL_SIGNING_KEY"  # the file of the private key, for trainers
TRUSTED_KEYS = "TIDEMILL_TRUSTED_KEYS"  # the file of the public keys, for workers
_MAKE = "make a pair with `tidemill keys init DIR`"
_CONTEXT = b"tidemill.models.1\n"  # signatures for other purposes are not valid here


def key_id(public: bytes) -> str:
    """Return the short name of a public key: 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The private key, which signs manifests. Only the owner may read its file."""

    _key: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> Self:
        """Return a new random key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the key that `save` wrote.

        Raises:
            ConfigError: there is no such file, others may read it, or it is not an Ed25519 key.
        """
        text = _read(path, "signing key")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"the signing key {path} has mode {mode:04o}, others may read it",
                hint=f"chmod 600 {path}; if others had access, {_MAKE}",
            )
        try:
            key = serialization.load_pem_private_key(text, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path} is not a private key in PEM: {error}", hint=_MAKE) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} is a key of another kind than Ed25519", hint=_MAKE)
        return cls(key)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Load the file that TIDEMILL_SIGNING_KEY names.

        Raises:
            ConfigError: the variable is not set, or as for `load`.
        """
        return cls.load(_named(env, SIGNING_KEY))

    @classmethod
    def if_set(cls, env: Mapping[str, str]) -> Self | None:
        """Load the file that TIDEMILL_SIGNING_KEY names; None if it is not set.

        Raises:
            ConfigError: as for `load`.
        """
        return cls.from_env(env) if env.get(SIGNING_KEY) else None

    def save(self, path: Path) -> None:
        """Write the key to the new file *path*, mode 0600.

        Raises:
            ConfigError: the file exists already or cannot be written.
        """
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write_new(path, pem, 0o600)

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def id(self) -> str:
        """The short name of the public key."""
        return key_id(self.public)

    def sign(self, body: bytes, *, context: bytes = _CONTEXT) -> bytes:
        """Return the signature of *body*, 64 bytes; it is not valid in another *context*."""
        return self._key.sign(context + body)


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys whose signatures a worker accepts, by their short names."""

    keys: Mapping[str, bytes]

    @classmethod
    def of(cls, publics: Iterable[bytes]) -> Self:
        """Return the set of these public keys of 32 bytes each."""
        keys = {key_id(public): public for public in publics}
        for public in keys.values():
            Ed25519PublicKey.from_public_bytes(public)
        return cls(keys)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file with one key a line: ``ed25519 BASE64 [comment]``; ``#`` starts a comment.

        Raises:
            ConfigError: there is no such file, others may write it, a line is not a key, or the
                file has no key.
        """
        refuse_others_writing(path)
        publics: list[bytes] = []
        for number, line in enumerate(_read(path, "trusted keys").decode("utf-8").splitlines(), 1):
            words = line.split("#", 1)[0].split()
            if words:
                publics.append(_public(words, f"{path}:{number}"))
        if not publics:
            raise ConfigError(f"{path} holds no key, so no model could ever serve", hint=_MAKE)
        return cls.of(publics)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Watch the file that TIDEMILL_TRUSTED_KEYS names.

        Raises:
            ConfigError: the variable is not set, or as for `load`.
        """
        return cls.watched(_named(env, TRUSTED_KEYS))

    @classmethod
    def if_set(cls, env: Mapping[str, str]) -> Self | None:
        """Watch the file that TIDEMILL_TRUSTED_KEYS names; None if it is not set.

        Raises:
            ConfigError: as for `load`.
        """
        return cls.from_env(env) if env.get(TRUSTED_KEYS) else None

    @classmethod
    def watched(cls, path: Path) -> Self:
        """Return the keys of a file as they are whenever somebody looks.

        Raises:
            ConfigError: as for `load`.
        """
        return cls(_KeysOfFile(WatchedFile(path, lambda path: cls.load(path).keys)))

    @property
    def is_watched(self) -> bool:
        """Whether the keys may change."""
        return isinstance(self.keys, _KeysOfFile)

    @property
    def trouble(self) -> str | None:
        """Why the changed file could not be read, or None."""
        return self.keys.file.trouble if isinstance(self.keys, _KeysOfFile) else None

    def save(self, path: Path) -> None:
        """Write the keys to the new file *path*, as `load` reads them.

        Raises:
            ConfigError: the file exists already or cannot be written.
        """
        lines = [f"ed25519 {base64.b64encode(key).decode()}\n" for key in self.keys.values()]
        _write_new(path, "".join(lines).encode(), 0o644)

    def verify(self, key: str, signature: bytes, body: bytes, *, context: bytes = _CONTEXT) -> bool:
        """Return whether the trusted key with this short name signed *body*."""
        public = self.keys.get(key)
        if public is None:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, context + body)
        except InvalidSignature:
            return False
        return True


class _KeysOfFile(Mapping[str, bytes]):
    """The keys of a file as of now."""

    def __init__(self, file: WatchedFile[Mapping[str, bytes]]) -> None:
        self.file = file

    def __getitem__(self, key: str) -> bytes:
        return self.file.value[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.value)

    def __len__(self) -> int:
        return len(self.file.value)


def command_signer(env: Mapping[str, str]) -> SigningKey | None:
    """Return the key that signs what a command asks of workers, if TIDEMILL_SIGNING_KEY is set.

    Raises:
        ConfigError: TIDEMILL_TRUSTED_KEYS is set, so workers here would refuse what is not signed.
    """
    signer, trusted = SigningKey.if_set(env), TrustedKeys.if_set(env)
    if trusted is not None and (signer is None or signer.id not in trusted.keys):
        raise ConfigError(
            f"workers that trust the keys of {env[TRUSTED_KEYS]} would refuse this request",
            hint=f"set {SIGNING_KEY} to the file of a key that is listed there",
        )
    return signer


def init_keys(folder: Path) -> tuple[Path, Path]:
    """Write a new pair into *folder*: ``signing.key`` (0600) and ``trusted.keys``; return both.

    Raises:
        ConfigError: one of the files exists already, or the folder cannot be written.
    """
    signing, trusted = folder / "signing.key", folder / "trusted.keys"
    for path in (signing, trusted):
        if path.exists():
            raise ConfigError(
                f"{path} exists already; a new pair would make every published model untrusted",
                hint="name another folder, or remove both files to replace the pair",
            )
    make_private(folder)
    key = SigningKey.generate()
    key.save(signing)
    TrustedKeys.of([key.public]).save(trusted)
    return signing, trusted


def _named(env: Mapping[str, str], name: str) -> Path:
    if not env.get(name):
        raise ConfigError(f"{name} is not set", hint=f"name the key file in it; {_MAKE}")
    return Path(env[name])


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}", hint=_MAKE) from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint="name a writable folder without it"
        ) from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _public(words: list[str], line: str) -> bytes:
    try:
        public = base64.b64decode(words[1], validate=True) if words[0] == "ed25519" else b""
    except (IndexError, binascii.Error):
        public = b""
    if len(public) != 32:
        raise ConfigError(f"{line}: not a line 'ed25519 BASE64'", hint=_MAKE)
    return public
