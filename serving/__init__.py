"""Serving: workers that decide by the newest models, their HTTP API, and the client.

Read `worker`, then `decision/` (one decision), `kafka_log` with `journaled_writer` and `journal`
(its event), `model/` (how a model gets into the worker), `api/` and `client/`.
It may import `schemas` and `kafka`: no lake, DuckDB, River or Faust, and not `features`, `streams`,
`trainers`, `experiments` or `monitor`.

Proved elsewhere: `kafka_log` by `tests/serving/test_acknowledgements.py`.
"""
