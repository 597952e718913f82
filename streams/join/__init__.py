"""The pure core: decisions and feedback in, examples out, as a function of the logs alone.

Read `rules`, `partition_join`, `lateness`, `open_feedback`, `matching`, then `examples`, `labels`
and `corrections`; `checkpoints` has the values that enter and leave. It may import `state` and
`units`, and no Kafka, Faust, lake, clock or file. `matching` and `verdicts` are proved by
tests/streams/test_windows_properties.py and tests/streams/test_conformance.py.
"""
