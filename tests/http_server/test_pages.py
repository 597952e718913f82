"""Pages that are only read ask for tokens and certificates as a serving worker does."""

import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.serving.api.test_callers import certificate

from tidemill.access import TlsConfig, TokenList, add_token
from tidemill.cli.app import main
from tidemill.errors import ConfigError
from tidemill.http_server.listener import HttpConfig
from tidemill.http_server.pages import PageServer
from tidemill.http_server.replies import TEXT, Reply
from tidemill.watched_file import WatchedFile

ALL = frozenset(("*",))
REFUSED = (ssl.SSLError, urllib.error.URLError, http.client.HTTPException, ConnectionError)
Show = Callable[..., str]


@pytest.fixture
def show() -> Iterator[Show]:
    """Serve one page, ``/status``; returns the address."""
    with ExitStack() as running:

        def show(**settings: object) -> str:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = taken.getsockname()[1]
            config = HttpConfig(port=port, **settings)  # type: ignore[arg-type]
            running.enter_context(
                PageServer({"/status": lambda: Reply(200, b"well", TEXT)}, config)
            )
            return config.url

        yield show


def get(
    url: str, token: str | None = None, context: ssl.SSLContext | None = None, method: str = "GET"
) -> tuple[int, bytes]:
    """Return status and body of a page."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_pages_are_read_by_those_who_may_observe(
    show: Show, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The monitor knows every loop, its models and its lag: no page for everybody."""
    path = tmp_path / "tokens"
    tokens = {
        scope: add_token(path, name=scope, scopes=frozenset((scope,)), loops=ALL, rate=None)
        for scope in ("observe", "admin", "decide")
    }
    url = show(tokens=WatchedFile(path, TokenList.load))
    assert get(f"{url}/status", tokens["observe"]) == (200, b"well")
    assert get(f"{url}/status", tokens["admin"]) == (200, b"well")
    assert get(f"{url}/status", tokens["decide"])[0] == 403
    assert get(f"{url}/status", "wrong")[0] == get(f"{url}/status")[0] == 401
    assert get(f"{url}/nothing")[0] == 401
    ready = json.loads(get(f"{url}/readyz")[1])
    assert ready == {"ready": True, "pid": os.getpid()}
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("observe")))
    assert get(f"{url}/status", tokens["observe"])[0] == 401, "a revoked token ends at once"
    path.write_text("what is this")
    assert [get(f"{url}/status", tokens["admin"])[0] for _ in range(3)] == [200] * 3
    assert caplog.text.count("what it said before still holds") == 1


def test_without_tokens_pages_are_free_and_only_read(show: Show) -> None:
    """On this machine, as before."""
    url = show()
    assert get(f"{url}/status") == (200, b"well")
    assert get(f"{url}/status", method="POST")[0] == 405
    assert get(f"{url}/")[0] == 404
    with pytest.raises(ConfigError, match="cannot be listened on"):
        PageServer({}, HttpConfig(port=int(url.rpartition(":")[2])))


@pytest.mark.parametrize("is_mutual", [False, True])
def test_pages_over_tls(is_mutual: bool, show: Show, tmp_path: Path) -> None:
    """The same settings as those of a serving worker."""
    authority, _ = certificate(tmp_path, "ca")
    cert, key = certificate(tmp_path, "server", "ca")
    url = show(tls=TlsConfig(cert=cert, key=key, client_ca=authority if is_mutual else None))
    trusting = ssl.create_default_context(cafile=str(authority))
    if is_mutual:
        with pytest.raises(REFUSED):
            get(f"{url}/status", context=trusting)
        trusting.load_cert_chain(*certificate(tmp_path, "client", "ca"))
    assert get(f"{url}/status", context=trusting) == (200, b"well")
    with pytest.raises(REFUSED):
        get(f"{url}/status")


def test_the_monitor_of_a_network_asks_for_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before it listens."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    assert main(["monitor", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "--insecure" in capsys.readouterr().err
