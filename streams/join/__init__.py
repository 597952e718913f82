"""The pure core: decisions and feedback in, examples out, as a function of the logs alone.

Read `rules`, `partition_join`, `lateness`, `open_feedback`, `matching`, then `shown_items`,
`examples`, `labels` and `corrections`; `checkpoints` has the values that enter and leave. It may
import `state`, `id_hashes` and `units`, and no Kafka, Faust, lake, clock or file.

Proved elsewhere: `checkpoints` by `tests/streams/join/test_partition_join.py`.
Proved elsewhere: `examples` by `tests/streams/join/test_partition_join.py`.
Proved elsewhere: `lateness` by `tests/streams/test_windows_properties.py`.
Proved elsewhere: `matching` by `tests/streams/test_windows_properties.py`.
Proved elsewhere: `open_feedback` by `tests/streams/test_windows_properties.py`.
Proved elsewhere: `verdicts` by `tests/streams/test_conformance.py`.
"""
