"""The HTTP API of a worker.

Read `http` (paths and answers), `server` (the process) and `metrics`; who may call, and how much of
the server one client may take, is in `tidemill.http_server`.
It may not import `client`, and makes no Kafka calls.

Proved elsewhere: `metrics` by `tests/serving/api/test_http.py`.
"""
