"""The HTTP API of a worker.

Read `http` (paths and answers), `server` (the process), `metrics` and `coalesce` (fast writes).
It may not import `client`, and makes no Kafka calls. Tests of `metrics` and `coalesce` are in
`test_http` and `test_server`.
"""
