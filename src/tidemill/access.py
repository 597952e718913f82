"""Who may call an HTTP server of tidemill: bearer tokens, TLS, and where it may listen.

A file holds one token a line, hashed: ``NAME sha256:HEX SCOPES LOOPS [RATE]``; ``#`` starts a
comment. Scopes and loops are separated by commas; ``*`` stands for all loops. A token is random
text of 256 bits, so one round of SHA-256 is enough.
"""

import contextlib
import hashlib
import hmac
import ipaddress
import os
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tidemill.errors import ConfigError
from tidemill.watched_file import WatchedFile, refuse_others_writing

TOKENS = "TIDEMILL_HTTP_TOKENS"
TLS_CERT = "TIDEMILL_TLS_CERT"
TLS_KEY = "TIDEMILL_TLS_KEY"
TLS_CLIENT_CA = "TIDEMILL_TLS_CLIENT_CA"
ACCESS_SETTINGS = (TOKENS, TLS_CERT, TLS_KEY, TLS_CLIENT_CA)
SCOPES = ("decide", "feedback", "loops", "observe", "admin")
_MAKE = "`tidemill keys token FILE --name NAME` adds a line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One caller: the hash of its token, and what it may do."""

    name: str
    digest: bytes
    scopes: frozenset[str]
    loops: frozenset[str]
    """Names of loops, or ``*``."""
    rate: float | None = None
    """Decisions and feedback a second, or None for any number."""

    def may(self, scope: str, loop: str | None = None) -> bool:
        """Return whether the token has *scope*, for *loop* if one is named."""
        return scope in self.scopes and (loop is None or not self.loops.isdisjoint((loop, "*")))

    @property
    def line(self) -> str:
        """The token as a line of a file."""
        rate = "" if self.rate is None else f" {self.rate:g}"
        scopes = ",".join(each for each in SCOPES if each in self.scopes)
        loops = ",".join(sorted(self.loops))
        return f"{self.name} sha256:{self.digest.hex()} {scopes} {loops}{rate}"


@dataclass(frozen=True, slots=True)
class TokenList:
    """The tokens of a file."""

    tokens: tuple[Token, ...]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file of tokens.

        Raises:
            ConfigError: it cannot be read, others may write it, or a line is no token.
        """
        refuse_others_writing(path)
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the tokens {path}: {error}", hint=_MAKE) from error
        found = []
        for number, line in enumerate(lines, 1):
            words = line.split("#", 1)[0].split()
            if words:
                found.append(_token(words, f"{path}:{number}"))
        return cls(tuple(found))

    def find(self, token: bytes) -> Token | None:
        """Return the entry of *token*; the time it takes does not depend on which it is."""
        digest = hashlib.sha256(token).digest()
        found = None
        for each in self.tokens:
            if hmac.compare_digest(each.digest, digest):
                found = each
        return found


def watched_tokens(env: Mapping[str, str]) -> WatchedFile[TokenList] | None:
    """Return the file of TIDEMILL_HTTP_TOKENS, which is read again when it changes; None if unset.

    Raises:
        ConfigError: the file cannot be read or is wrong.
    """
    path = env.get(TOKENS)
    return WatchedFile(Path(path), TokenList.load) if path else None


def add_token(
    path: Path, *, name: str, scopes: frozenset[str], loops: frozenset[str], rate: float | None
) -> str:
    """Make a token, append its line to the file *path*, and return it; nothing else has it.

    Raises:
        ConfigError: the line would be wrong, or the file cannot be written.
    """
    token = secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).digest()
    line = Token(name=name, digest=digest, scopes=scopes, loops=loops, rate=rate).line
    _token(line.split(), f"{path}")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint="name a file in a writable folder"
        ) from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(line + "\n")
    return token


def _token(words: list[str], line: str) -> Token:
    hint = f"write NAME sha256:HEX {','.join(SCOPES)} LOOPS [RATE]; {_MAKE}"
    if len(words) not in (4, 5):
        raise ConfigError(f"{line}: {len(words)} words instead of 4 or 5", hint=hint)
    name, digest, scopes, loops, *rate = words
    kind, _, digits = digest.partition(":")
    if kind != "sha256" or len(digits) != 64 or not set(digits.lower()) <= set("0123456789abcdef"):
        raise ConfigError(f"{line}: {name} has no hash sha256:HEX", hint=hint)
    if unknown := set(scopes.split(",")).difference(SCOPES):
        raise ConfigError(f"{line}: {name} has the unknown scope {min(unknown)!r}", hint=hint)
    try:
        per_second = float(rate[0]) if rate else None
    except ValueError:
        per_second = 0.0
    if per_second is not None and not 0 < per_second < float("inf"):
        raise ConfigError(
            f"{line}: {name} has the rate {rate[0]!r}", hint="write 500 for 500 a second"
        )
    return Token(
        name=name,
        digest=bytes.fromhex(digits),
        scopes=frozenset(scopes.split(",")),
        loops=frozenset(loops.split(",")),
        rate=per_second,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """The certificate of a server, and whose certificates its clients need, if any."""

    cert: Path
    key: Path
    client_ca: Path | None = None
    """Clients need a certificate that one of these authorities has signed: mutual TLS."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        """Read TIDEMILL_TLS_CERT, TIDEMILL_TLS_KEY and, if set, TIDEMILL_TLS_CLIENT_CA.

        Raises:
            ConfigError: one is set without the others that it needs.
        """
        cert, key, client_ca = (env.get(name) for name in (TLS_CERT, TLS_KEY, TLS_CLIENT_CA))
        if cert and key:
            return cls(
                cert=Path(cert), key=Path(key), client_ca=Path(client_ca) if client_ca else None
            )
        if cert or key or client_ca:
            raise ConfigError(
                f"TLS needs both {TLS_CERT} and {TLS_KEY}", hint="set both, or none of them"
            )
        return None

    def context(self) -> ssl.SSLContext:
        """Return the context of a server.

        Raises:
            ConfigError: a file cannot be read, or certificate and key do not belong together.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.cert, self.key)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"TLS with {self.cert} is not possible: {error}",
                hint=f"check the PEM files of {TLS_CERT}, {TLS_KEY} and {TLS_CLIENT_CA}",
            ) from error
        return context

    def own_client(self) -> ssl.SSLContext:
        """Return the context of a client on this machine, which looks whether the server answers.

        The client knows the process it has started, and asks for nothing that is secret: it does
        not check the name in the certificate. If the server asks for one, it shows the server's.

        Raises:
            ConfigError: no server with these settings would accept it.
        """
        server, client = self.context(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        if self.client_ca is not None:
            client.load_cert_chain(self.cert, self.key)
        try:
            _shake_hands(server, client)
        except ssl.SSLError as error:
            raise ConfigError(
                f"the certificate {self.cert} is none of a client of {self.client_ca}: {error}",
                hint=f"have {self.client_ca} sign it, for clients too; or unset {TLS_CLIENT_CA}",
            ) from error
        return client


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Make a handshake in memory.

    Raises:
        ssl.SSLError: one side refuses the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server),
    ]
    while sides:
        for side in list(sides):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                sides.remove(side)


def check_address(
    host: str, *, tokens: object | None, tls: TlsConfig | None, is_insecure: bool
) -> None:
    """Return if a server may listen on *host*.

    Raises:
        ConfigError: other machines could reach it, and nothing tells who they are.
    """
    if is_insecure or tokens is not None or (tls is not None and tls.client_ca is not None):
        return
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local:
        raise ConfigError(
            f"{host} can be reached from other machines, and no token would be asked for",
            hint=f"set {TOKENS} (or {TLS_CLIENT_CA}), or add --insecure where the network is yours",
        )
