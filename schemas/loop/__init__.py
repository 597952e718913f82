"""The loop: one decision point, from its features to its label, as a file and as a value.

Read `definition` with its parts (`fields`, `rollout`, `durations`, `sizes`) and its checks
(`validation`); then the file (`yaml_subset`, `loop_file`, `diagnostics`, `json_schema`), two
versions beside each other (`diff`), and the label (`sql/`, `labels`). It imports
`topics` and `logs` only: no Avro, no Kafka. Only `labels` and `sql/` import DuckDB, because serving
workers read definitions and have none.

Proved elsewhere: `diagnostics` by `tests/schemas/loop/test_loop_file.py`.
Proved elsewhere: `durations` by `tests/schemas/loop/test_definition.py`.
Proved elsewhere: `fields` by `tests/schemas/loop/test_definition.py`.
Proved elsewhere: `rollout` by `tests/schemas/loop/test_definition.py`.
Proved elsewhere: `validation` by `tests/schemas/loop/test_definition.py`.
Proved elsewhere: `yaml_subset` by `tests/schemas/loop/test_loop_file.py`.
"""
