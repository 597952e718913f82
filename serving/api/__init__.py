"""The HTTP API of a worker.

Read `http` (paths and answers), `server` (the process), `metrics` and `coalesce` (fast writes).
It may not import `client`, and makes no Kafka calls.

Proved elsewhere: `coalesce` by `tests/serving/api/test_server.py`.
Proved elsewhere: `metrics` by `tests/serving/api/test_http.py`.
"""
