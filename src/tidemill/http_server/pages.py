"""Pages that are only read, answered in a thread: those of a monitor, say.

A token needs the scope ``observe`` or ``admin``. ``/readyz`` needs no token: it names the process,
and says whether it is ready.
"""

import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Self

from tidemill.errors import ConfigError
from tidemill.http_server.callers import HttpAccess
from tidemill.http_server.http_limits import HttpCounters
from tidemill.http_server.listener import HttpConfig, uvicorn_server
from tidemill.http_server.replies import (
    Handler,
    HttpRefusal,
    Reply,
    Scope,
    check_read,
    encode,
)

READY = "/readyz"
_JOIN_S = 5.0

Pages = Mapping[str, Callable[[], Reply]]


class PageServer:
    """Answers GET of *pages* while its block runs.

    Args:
        pages: by path, what answers; called in the thread of the server.
        config: where it listens, and to whom.

    Raises:
        ConfigError: the port is taken or not allowed, or the files of TLS cannot be used.
    """

    def __init__(self, pages: Pages, config: HttpConfig) -> None:
        counters = HttpCounters()
        access = HttpAccess(config.tokens, config.origins, counters)
        self._server = uvicorn_server(_handler_of(pages, access), config, counters)
        self._socket = _listening(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="pages", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer the requests under way and stop."""
        self._server.should_exit = True
        self._thread.join(_JOIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _listening(config: HttpConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"port {config.port} of {config.host} cannot be listened on: {error.strerror}",
            hint="is another process there? name a free one with --port",
        ) from error


def _handler_of(pages: Pages, access: HttpAccess) -> Handler:
    there = {READY: _ready, **pages}
    paths = f"there is {', '.join(there)}"

    def handle(scope: Scope, _body: bytes) -> Reply:
        try:
            caller = access.admit(scope)
            page = there.get(scope["path"])
            check_read(scope["method"], scope["path"], is_there=page is not None, paths=paths)
            if page is not _ready and not caller.is_free:
                caller.require("observe", "admin")
        except HttpRefusal as refusal:
            return refusal.reply
        reply = page() if page is not None else _ready()
        return reply._replace(headers=reply.headers + caller.headers)

    return handle


def _ready() -> Reply:
    return Reply(200, encode({"ready": True, "pid": os.getpid()}))
