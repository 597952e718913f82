"""Every error tidemill raises on purpose, one class per thing a caller can do about it.

TidemillError
├── ConfigError       a setting is missing or wrong            -> set it
├── LoopError         a loop file is wrong                     -> edit the line it names
├── ContractError     an event schema may not change this way  -> raise the version
├── PayloadError      one payload cannot be read               -> it goes to the dead letters
├── BrokerError       Kafka does not answer                    -> look at the broker, try again
├── LakeError         the lake refuses to read or write        -> look at the storage, try again
│   └── FencedError   another worker has taken over            -> stop, the other one goes on
├── ScratchError      open windows have no room on the disk    -> free or name another disk
├── ModelError        a model is not fit to serve              -> the live one stays
└── RequestError      a request of a service is wrong          -> HTTP 400

A command that ends by one of them exits with its `status`: 2, or 3 where Kafka could not be looked
at. 1 is a finding: the command has looked, and something is not as it should be.
"""

from typing import ClassVar


class TidemillError(Exception):
    """Base of every error meant for a person: *what* happened and a *hint* that is an action."""

    status: ClassVar[int] = 2
    """The exit status of a command that ends by it."""

    def __init__(self, what: str, *, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n  hint: {self.hint}"


class ConfigError(TidemillError):
    """A setting is missing or has a value that cannot work."""


class LoopError(TidemillError):
    """A loop definition is wrong at one place of its file."""

    def __init__(
        self, what: str, *, hint: str, file: str | None = None, line: int | None = None
    ) -> None:
        super().__init__(what, hint=hint)
        self.file = file
        self.line = line

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return f"{place}: {super().__str__()}" if place else super().__str__()


class ContractError(TidemillError):
    """A schema cannot be published or read as asked; older events would become unreadable."""


class PayloadError(TidemillError):
    """One payload cannot be decoded; *reason* is the word the dead-letter topic carries."""

    def __init__(self, what: str, *, hint: str, reason: str) -> None:
        super().__init__(what, hint=hint)
        self.reason = reason


class BrokerError(TidemillError):
    """Kafka is away, or refused a request."""

    status = 3


class LakeError(TidemillError):
    """The lake cannot be read or written; nothing of the refused commit is visible."""


class FencedError(LakeError):
    """Another worker owns what this one wanted to commit; its own work must be dropped."""


class ScratchError(TidemillError):
    """Open windows exceed their memory, and the local disk takes no more of them."""


class ModelError(TidemillError):
    """A model may not serve: broken, forged, or of another signature; the live one stays."""


class RequestError(TidemillError):
    """A request of a service is wrong; the HTTP API answers 400 with what and hint."""
