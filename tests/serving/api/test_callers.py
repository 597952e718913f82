"""Who may call a worker: tokens with scopes and rates, TLS, and the pages of browsers."""

import datetime as dt
import http.client
import ipaddress
import json
import os
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.serving.api.test_http import DECISIONS, FEEDBACK
from tests.serving.conftest import NOWHERE, Serve
from tests.serving.models import FEATURES

from tidemill import Client
from tidemill.access import TOKENS, TlsConfig, TokenList, add_token
from tidemill.cli.app import main
from tidemill.errors import BrokerError, ConfigError, RequestError
from tidemill.http_server.listener import HttpConfig
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import Worker
from tidemill.watched_file import WatchedFile

BODY = json.dumps({"features": FEATURES}).encode()
LEFT = json.dumps({"decision_id": "d", "kind": "left"}).encode()
ALL = frozenset(("*",))
Ask = Callable[..., tuple[int, dict[str, str]]]


def ask(
    url: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str]]:
    """Send one request; return status and headers of the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}


class Tokens:
    """A file of tokens, and a server that asks for them."""

    def __init__(self, folder: Path, worker: Worker, serve: Serve) -> None:
        self.path = folder / "tokens"
        self.admin = self.add("ops", "admin")
        self.url = serve(worker, tokens=WatchedFile(self.path, TokenList.load))

    def add(self, name: str, *scopes: str, loop: str = "*", rate: float | None = None) -> str:
        """Return a new token."""
        return add_token(
            self.path, name=name, scopes=frozenset(scopes), loops=frozenset((loop,)), rate=rate
        )

    def ask(self, token: str, method: str, path: str, body: bytes | None = None) -> int:
        """Return the status of a request with *token*."""
        return ask(self.url, method, path, body, authorization=f"Bearer {token}")[0]


@pytest.fixture
def tokens(tmp_path: Path, worker: Worker, serve: Serve) -> Tokens:
    """A server with tokens."""
    return Tokens(tmp_path, worker, serve)


def test_each_scope_opens_its_paths_and_no_others(tokens: Tokens, log: MemoryEventLog) -> None:
    """The token of a web page must not read the metrics, nor that of a dashboard decide."""
    paths = {
        "decide": ("POST", DECISIONS, BODY, 200),
        "feedback": ("POST", FEEDBACK, LEFT, 202),
        "loops": ("GET", "/v1/loops", None, 200),
        "observe": ("GET", "/metrics", None, 200),
    }
    for scope in (*paths, "admin"):
        token = tokens.add(scope, scope)
        for needed, (method, path, body, right) in paths.items():
            may = needed == scope or (scope == "admin" and needed in ("loops", "observe"))
            assert tokens.ask(token, method, path, body) == (right if may else 403), (scope, path)
        assert tokens.ask(token, "GET", "/v1/loops/banner") == (403 if scope == "observe" else 200)
        assert tokens.ask(token, "GET", "/healthz") == (
            200 if scope in ("observe", "admin") else 403
        )
    assert len(log.events) == 2


def test_a_token_is_for_its_loops(tokens: Tokens, log: MemoryEventLog) -> None:
    """The team of one loop must not fill the topics of another."""
    other = tokens.add("other", "decide", "feedback", loop="nope")
    assert tokens.ask(other, "POST", DECISIONS, BODY) == 403
    assert tokens.ask(other, "POST", FEEDBACK, LEFT) == 403
    assert tokens.ask(other, "GET", "/v1/loops/banner") == 403
    assert tokens.ask(other, "POST", "/v1/loops/nope/decisions", BODY) == 404
    own = tokens.add("own", "decide", loop="banner")
    assert tokens.ask(own, "POST", DECISIONS, BODY) == 200
    assert len(log.events) == 1


def test_without_a_valid_token_nothing_is_told(tokens: Tokens, log: MemoryEventLog) -> None:
    """But readiness: a load balancer has no token."""
    for headers in ({}, {"authorization": "Bearer nope"}, {"authorization": tokens.admin}):
        for method, path in (("POST", DECISIONS), ("GET", "/metrics"), ("GET", "/nothing")):
            status, told = ask(tokens.url, method, path, BODY, **headers)
            assert (status, told["www-authenticate"]) == (401, "Bearer")
    connection = http.client.HTTPConnection(urlsplit(tokens.url).netloc, timeout=120)
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (503, {"ready": False, "pid": os.getpid()})
    connection.close()
    assert log.events == []


def test_a_change_of_the_file_counts_at_once(tokens: Tokens) -> None:
    """A token that has leaked is revoked by removing its line, without a restart."""
    leaked = tokens.add("leaked", "decide")
    assert tokens.ask(leaked, "POST", DECISIONS, BODY) == 200
    lines = tokens.path.read_text().splitlines()
    tokens.path.write_text("\n".join(line for line in lines if "leaked" not in line))
    assert tokens.ask(leaked, "POST", DECISIONS, BODY) == 401
    tokens.path.write_text("what is this")
    assert tokens.ask(tokens.admin, "GET", "/metrics") == 200


def test_a_token_has_a_rate(tokens: Tokens) -> None:
    """One service in a loop must not take the worker from the others."""
    many = json.dumps({"batch": [{"features": FEATURES}] * 50}).encode()
    slow, fast = tokens.add("slow", "decide", rate=10), tokens.add("fast", "decide", rate=1e6)
    assert tokens.ask(slow, "POST", DECISIONS, many) == 200  # more than a second's worth
    status, headers = ask(tokens.url, "POST", DECISIONS, BODY, authorization=f"Bearer {slow}")
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    assert [tokens.ask(fast, "POST", DECISIONS, many) for _ in range(5)] == [200] * 5


def test_the_client_takes_a_token(tokens: Tokens) -> None:
    """And tells a wrong one from a worker that is away."""
    token = tokens.add("shop", "decide", "feedback", loop="banner", rate=1e6)
    with Client(tokens.url, budget_ms=10_000, token=token) as client:
        result = client.loop("banner").get_decision(FEATURES)
        client.loop("banner").log_feedback(result.id, "left")
        assert token not in repr(vars(client._transport))
    with pytest.raises(RequestError, match="not known here"):
        Client(tokens.url, token="wrong").loop("banner").get_decision(FEATURES)
    with pytest.raises(RequestError, match="no token"):
        Client(tokens.url).loop("banner").get_decision(FEATURES)
    with pytest.raises(ConfigError, match="token"):
        Client(tokens.url, token="a\r\nHost: b")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://shop.example:444"])
def test_pages_that_are_not_listed_may_not_call(
    origin: str, worker: Worker, serve: Serve, log: MemoryEventLog
) -> None:
    """A browser sends such requests for any page that a developer happens to read."""
    url = serve(worker, origins=("https://shop.example",))
    for method in ("POST", "OPTIONS"):
        status, headers = ask(url, method, DECISIONS, BODY, origin=origin)
        assert status == 403
        assert "access-control-allow-origin" not in headers
    assert log.events == []


def test_a_page_that_is_listed_may_call(worker: Worker, serve: Serve) -> None:
    """A shop may ask for decisions in the browser."""
    url = serve(worker, origins=("https://shop.example",))
    origin = "https://shop.example"
    status, headers = ask(
        url, "OPTIONS", DECISIONS, origin=origin, access_control_request_method="POST"
    )
    assert (status, headers["access-control-allow-origin"]) == (204, origin)
    assert "authorization" in headers["access-control-allow-headers"]
    status, headers = ask(url, "POST", DECISIONS, BODY, origin=origin)
    assert (status, headers["access-control-allow-origin"]) == (200, origin)
    status, headers = ask(url, "POST", DECISIONS, b"{", origin=origin)
    assert (status, headers["access-control-allow-origin"]) == (400, origin)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "worker.example"])
def test_without_tokens_a_server_is_for_this_machine(host: str, tmp_path: Path) -> None:
    """Whoever opens it to a network has to say so."""
    with pytest.raises(ConfigError, match="other machines") as caught:
        HttpConfig(port=0, host=host)
    assert "--insecure" in caught.value.hint
    HttpConfig(port=0, host=host, is_insecure=True)
    add_token(tmp_path / "t", name="x", scopes=frozenset(("admin",)), loops=ALL, rate=None)
    HttpConfig(port=0, host=host, tokens=WatchedFile(tmp_path / "t", TokenList.load))
    for local in ("127.0.0.1", "::1", "localhost"):
        HttpConfig(port=0, host=local)


def test_the_command_refuses_an_open_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it listens."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", NOWHERE.bootstrap)
    monkeypatch.setenv("TIDEMILL_JOURNAL", "off")
    assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert TOKENS in capsys.readouterr().err


def test_a_token_is_made_by_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is printed once; the file has its hash alone, and is private."""
    path = tmp_path / "tokens"
    main(["token", str(path), "--name", "shop", "--scope", "decide", "--loop", "banner"])
    token = capsys.readouterr().out.strip()
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    found = TokenList.load(path).find(token.encode())
    assert found is not None
    assert (found.name, found.may("decide", "banner"), found.may("admin")) == ("shop", True, False)
    assert main(["token", str(path), "--name", "shop", "--scope", "all"]) == 2


def certificate(folder: Path, name: str, issuer: str | None = None) -> tuple[Path, Path]:
    """Write certificate and key of *name* into *folder*, signed by *issuer* or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, by = key, subject
    if issuer is not None:
        loaded = serialization.load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer, by = loaded, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    now = dt.datetime.now(dt.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(alternative, critical=False)
        .sign(signer, hashes.SHA256())
    )
    cert_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_path, key_path


@pytest.mark.parametrize("is_mutual", [False, True])
def test_tls_and_the_certificates_of_clients(
    is_mutual: bool, worker: Worker, serve: Serve, tmp_path: Path
) -> None:
    """Feature values are customers' data, and a certificate says who asks."""
    authority, _ = certificate(tmp_path, "ca")
    cert, key = certificate(tmp_path, "server", "ca")
    tls = TlsConfig(cert=cert, key=key, client_ca=authority if is_mutual else None)
    url = serve(worker, tls=tls)
    context = ssl.create_default_context(cafile=str(authority))
    strangers = [Client(url, budget_ms=5_000)]
    if is_mutual:
        strangers.append(Client(url, budget_ms=5_000, tls=context))
    for stranger in strangers:
        with pytest.raises(BrokerError, match="no worker of"):
            stranger.loop("banner").get_decision(FEATURES)
    trusting = ssl.create_default_context(cafile=str(authority))
    trusting.load_cert_chain(*certificate(tmp_path, "client", "ca"))
    with Client(url, budget_ms=10_000, tls=trusting) as client:
        assert client.loop("banner").get_decision(FEATURES).source == "default"
    if is_mutual:
        HttpConfig(port=0, host="0.0.0.0", tls=tls)


def test_tls_that_cannot_work_is_told_at_the_start(tmp_path: Path) -> None:
    """Not by each client."""
    with pytest.raises(ConfigError, match="needs both"):
        TlsConfig.from_env({"TIDEMILL_TLS_CERT": "x"})
    found = TlsConfig.from_env({"TIDEMILL_TLS_CERT": "x", "TIDEMILL_TLS_KEY": "y"})
    assert found is not None
    with pytest.raises(ConfigError, match="not possible"):
        found.context()
    assert TlsConfig.from_env({}) is None


def test_the_description_of_the_api_names_the_loops_of_the_token(
    tokens: Tokens, log: MemoryEventLog
) -> None:
    """What another team decides is not for everybody to read."""
    for loop, is_seen in (("banner", True), ("nope", False), ("*", True)):
        token = tokens.add(f"for-{loop.replace('*', 'all')}", "decide", loop=loop)
        request = urllib.request.Request(
            f"{tokens.url}/openapi.json", headers={"authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert (DECISIONS in json.load(answer)["paths"]) == is_seen, loop
    assert ask(tokens.url, "GET", "/openapi.json")[0] == 401
