"""A schema registry for tests: the part of Confluent's REST protocol that tidemill speaks.

It keeps schemas in memory and answers over real HTTP on a port of its own. It is no Confluent
product, which Maven Central and PyPI do not carry; the paths, codes and bodies are those of the
documented API.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

Answer = tuple[int, object]
_NO_SUBJECT: Answer = (404, {"error_code": 40401, "message": "Subject not found."})
_NO_SCHEMA: Answer = (404, {"error_code": 40403, "message": "Schema not found"})


class Registry:
    """What the registry holds, and the requests it was asked."""

    def __init__(self) -> None:
        self.schemas: list[str] = []
        self.subjects: dict[str, list[int]] = {}
        self.requests: list[str] = []
        self.authorization: str | None = None
        self.broken: Answer | None = None

    def answer(self, method: str, path: str, body: str) -> Answer:
        """Return status and body for a request."""
        self.requests.append(f"{method} {path}")
        if self.broken is not None:
            return self.broken
        for verb, pattern, act in (
            ("POST", r"/subjects/([^/]+)/versions", self._register),
            ("GET", r"/subjects/([^/]+)/versions", self._versions),
            ("GET", r"/subjects/([^/]+)/versions/(\d+)", self._version),
            ("GET", r"/schemas/ids/(\d+)", self._by_id),
        ):
            match = re.fullmatch(pattern, path)
            if method == verb and match:
                return act(*map(unquote, match.groups()), *([body] if verb == "POST" else []))
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _register(self, subject: str, body: str) -> Answer:
        schema = json.loads(body)["schema"]
        if json.loads(schema).get("type") != "record":
            return 422, {"error_code": 42201, "message": "Invalid schema"}
        if schema not in self.schemas:
            self.schemas.append(schema)
        number = self.schemas.index(schema) + 1
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return 200, {"id": number}

    def _versions(self, subject: str) -> Answer:
        if subject not in self.subjects:
            return _NO_SUBJECT
        return 200, list(range(1, len(self.subjects[subject]) + 1))

    def _version(self, subject: str, version: str) -> Answer:
        number = self.subjects[subject][int(version) - 1]
        schema = self.schemas[number - 1]
        return 200, {"subject": subject, "version": int(version), "id": number, "schema": schema}

    def _by_id(self, number: str) -> Answer:
        if not 0 < int(number) <= len(self.schemas):
            return _NO_SCHEMA
        return 200, {"schema": self.schemas[int(number) - 1]}


@contextmanager
def running_registry() -> Iterator[tuple[str, Registry]]:
    """Run a registry on a free port; give its URL and what it holds."""
    registry = Registry()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            registry.authorization = self.headers.get("Authorization")
            status, answer = registry.answer(self.command, self.path, body)
            text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _serve  # noqa: N815  # the names http.server calls

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
