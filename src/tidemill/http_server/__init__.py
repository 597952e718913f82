"""The HTTP server of every process that answers over the network: who may call, TLS, and limits.

Read `listener` (where, to whom), `callers` (tokens, origins), `connections` with `http_limits`,
`tls_protocol`, `answering` (one call and one write for each request), `pages` (that are only read),
`replies`.
It may import nothing of tidemill but the modules of the root package.

Proved elsewhere: `callers` by `tests/serving/api/test_callers.py`.
Proved elsewhere: `connections` by `tests/serving/api/test_connections.py`.
Proved elsewhere: `http_limits` by `tests/serving/api/test_connections.py`.
Proved elsewhere: `replies` by `tests/serving/api/test_http.py`.
Proved elsewhere: `listener` by `tests/serving/api/test_callers.py`.
Proved elsewhere: `tls_protocol` by `tests/serving/api/test_connections.py`.
"""
