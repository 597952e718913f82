"""The client of a service, over HTTP or with a worker inside the process.

Read `client`, then `http_transport` with `calls` and `connection`, and `embedded`.
It may not import `api`; only `embedded` imports the worker, and only when it is used, because a
client over HTTP needs neither Kafka nor Polars.

Proved elsewhere: `calls` by `tests/serving/client/test_client.py`.
Proved elsewhere: `connection` by `tests/serving/client/test_client.py`.
Proved elsewhere: `embedded` by `tests/serving/client/test_client.py`.
Proved elsewhere: `http_transport` by `tests/serving/client/test_client.py`.
"""
