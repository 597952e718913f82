"""The HTTP API of a worker.

Read `http` (paths and answers) with `replies`, `callers` (tokens and origins), `server` (the
process), `connections` with `http_limits`, `metrics`, and `coalesce` (fast writes).
It may not import `client`, and makes no Kafka calls.

Proved elsewhere: `coalesce` by `tests/serving/api/test_server.py`.
Proved elsewhere: `http_limits` by `tests/serving/api/test_connections.py`.
Proved elsewhere: `metrics` by `tests/serving/api/test_http.py`.
Proved elsewhere: `replies` by `tests/serving/api/test_http.py`.
"""
