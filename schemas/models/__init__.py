"""What trainers publish and workers load: signed manifests, payloads, and features as numbers.

Read `signing`, `manifest` and `assembler` (the protocol of the model topic), then
`feature_signature`, `river_state`, `tree_forest` and `factor_machine` (what a payload means;
`online_models` chooses). It imports `loop` only: no Kafka, no
lake, no River, no clock; records come in as bytes.

Proved elsewhere: `avro_record` by `tests/schemas/models/test_river_state.py`.
Proved elsewhere: `manifest` by `tests/schemas/models/test_assembler.py`.
Proved elsewhere: `hashed_rows` by `tests/trainers/learners/test_river_models.py`.
Proved elsewhere: `online_models` by `tests/trainers/learners/test_river_models.py`.
"""
