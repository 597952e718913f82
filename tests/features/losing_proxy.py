"""A proxy before the S3 server that does what a bad network does: it loses an answer.

Run as ``losing_proxy.py SERVER FLAG``; it prints its port. While the file FLAG exists, the answer
to the next commit (a PUT into a Delta log) is thrown away, and FLAG with it. It is a process of
its own, because `deltalake` holds the interpreter while it waits for some answers.
"""

import http.client
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SERVER, FLAG = sys.argv[1], Path(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    """Forwards one request a connection, just as it is: the signature covers the headers."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        """Forward a request of any method."""
        self.raw_requestline = self.rfile.readline()
        self.close_connection = True
        if not (self.raw_requestline and self.parse_request()):
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream = http.client.HTTPConnection(SERVER, timeout=120)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        if self.command == "PUT" and "/_delta_log/" in self.path and FLAG.exists():
            FLAG.unlink()
            return
        self._answer(answer, data)

    def _answer(self, answer: http.client.HTTPResponse, data: bytes) -> None:
        is_head = self.command == "HEAD"
        size = answer.headers.get("Content-Length", "0") if is_head else str(len(data))
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", size)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"" if is_head else data)


if __name__ == "__main__":
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(proxy.server_port, flush=True)
    proxy.serve_forever()
