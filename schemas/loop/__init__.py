"""The loop: one decision point, from its features to its label, as a file and as a value.

Read `definition` with its parts (`fields`, `training`, `durations`, `sizes`) and its checks
(`validation`); then the file (`yaml_subset`, `loop_file`, `diagnostics`, `json_schema`), two
versions beside each other (`diff`, `variants`), and the label (`label_sql`, `labels`). It imports
`topics` and `logs` only: no Avro, no Kafka. Only `labels` and `label_sql` import DuckDB, because
serving workers read definitions and have none.
"""
