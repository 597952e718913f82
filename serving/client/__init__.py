"""The client of a service, over HTTP or with a worker inside the process.

Read `client`, then `failover` with `calls` and `loop_default` (the rules), `http_transport` with
`connection`, and `embedded`; `async_client` with `async_transport` is the same for asyncio.
It may not import `api`; only `embedded` imports the worker, and only when it is used, because a
client over HTTP needs neither Kafka nor Polars.

Proved elsewhere: `async_client` by `tests/serving/client/test_client.py`.
Proved elsewhere: `async_transport` by `tests/serving/client/test_client.py`.
Proved elsewhere: `calls` by `tests/serving/client/test_client.py`.
Proved elsewhere: `connection` by `tests/serving/client/test_client.py`.
Proved elsewhere: `embedded` by `tests/serving/client/test_client.py`.
Proved elsewhere: `failover` by `tests/serving/client/test_client.py`.
Proved elsewhere: `loop_default` by `tests/serving/client/test_items.py`.
Proved elsewhere: `http_transport` by `tests/serving/client/test_client.py`.
"""
